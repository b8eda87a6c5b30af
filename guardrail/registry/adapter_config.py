"""What the configuration beside an adapter may say, for peft does, without being asked, what it says.

peft imports the modules that it names and ``AutoPeftModel`` loads the base that it names, whatever was evaluated.
Not covered: the weights (their digests are signed), and settings that only change what an adapter computes.
"""

from __future__ import annotations

import json
from pathlib import Path

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.envelope import LARGEST
from guardrail.records import ModelRef

CONFIG = "adapter_config.json"
IMPORTING = ("auto_mapping", "megatron_config")
"""Where these say anything, peft imports a module that the configuration names."""


def require_fitting(directory: Path, base: ModelRef) -> str:
    """The adapter in ``directory`` is a LoRA for ``base``, or names no base; what was found, in words.

    Raises:
        EvidenceInvalid: it is something else, names another base or revision, or modules to import.
    """
    path = directory / CONFIG
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise EvidenceInvalid(f"the adapter has no {CONFIG} of at most {LARGEST} bytes", expected="an adapter of peft")
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise EvidenceInvalid(f"{CONFIG} cannot be read: {error}", expected="JSON, every name once") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise EvidenceInvalid(f"{CONFIG} is not that of a LoRA", expected='{"peft_type": "LORA", ...}')
    if importing := [name for name in IMPORTING if config.get(name)]:
        raise EvidenceInvalid(f"{CONFIG} names modules to import ({', '.join(importing)})", expected="none")
    named = config.get("base_model_name_or_path"), config.get("revision")
    if named not in ((None, None), (base.name, base.revision)):
        raise EvidenceInvalid(
            f"{CONFIG} names the base {named[0]!a}, revision {named[1]!a}",
            expected=f"{base.name!a}, revision {base.revision!a}, which was evaluated, or none at all",
            next_step="train again: training names the base that it was given",
        )
    return f"a LoRA for {base.name}" if named[0] else "a LoRA that names no base"


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of a name that is there twice some readers take the first value, others the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
