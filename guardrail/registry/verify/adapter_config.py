"""An adapter and the base that its evidence is about: a plain LoRA that names this base, or none.

``AutoPeftModel`` loads whatever base the configuration names, whatever was evaluated. What else an adapter's files may
say is one closed list for everybody who takes one in (``guardrail.evidence.adapter.lora``). Not covered: whether the
layers are all that the base has of them; the evaluator saw the base, and signed for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.lora import read_lora, require_only
from guardrail.evidence.adapter.lora_settings import CONFIG
from guardrail.records import ModelRef


def require_fitting(directory: Path, base: ModelRef, files: Iterable[str]) -> str:
    """The adapter in ``directory``, which has these ``files``, is a plain LoRA for ``base``, or names no base.

    Returns:
        what was found, in words.

    Raises:
        EvidenceInvalid: it is something else, has other files, or names another base or revision.
    """
    require_only(files)
    lora = read_lora(directory)
    named = lora.settings.base, lora.settings.revision
    if named not in ((None, None), (base.name, base.revision)):
        raise EvidenceInvalid(
            f"{CONFIG} names the base {named[0]!a}, revision {named[1]!a}",
            expected=f"{base.name!a}, revision {base.revision!a}, which was evaluated, or none at all",
            next_step="train again: training names the base that it was given",
        )
    return f"a plain LoRA of {len(lora.layers)} layers {f'for {base.name}' if named[0] else 'that names no base'}"
