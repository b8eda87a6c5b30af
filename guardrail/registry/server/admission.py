"""Whether evidence admits an adapter to a guarded model: decided again here, from the bytes that are to be sealed.

The client's verdict is a proposal. Pure but for reading the directory.
Not covered: approvals and signatures of the single stages (an alias that asks for approvals is refused).
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import EVIDENCE
from guardrail.evidence.trust import GuardedModel, ProtectedAlias, Trust
from guardrail.registry.checks import Examined, admissible, examine

SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".md", ".model"})
LARGEST_CONFIG = 1 << 20


def admit(directory: Path, trust: Trust, guarded: GuardedModel, now: datetime, alias: str | None = None) -> Examined:
    """What the evidence in ``directory`` says, if it admits the adapter to ``guarded`` (and to ``alias``).

    Raises:
        EvidenceInvalid: the first thing that does not hold.
    """
    plain_files(directory)
    examined = examine(directory, trust.keys_of("decide"))
    decision = examined.decision
    if decision.model != guarded.name:
        raise EvidenceInvalid(f"the evidence is for the model {decision.model!r}", expected=repr(guarded.name))
    if alias is not None and decision.alias != alias:
        raise EvidenceInvalid(f"the evidence is for the alias {decision.alias!r}", expected=repr(alias))
    protected = protected_alias(guarded, decision.alias)
    if decision.policy != protected.policy:
        raise EvidenceInvalid(
            f"the decision was made under the policy {decision.policy}",
            expected=f"{protected.policy}, which the trust file pins for {guarded.name}@{protected.alias}",
            next_step="decide under the pinned policy, or have the root keys pin this one",
        )
    if protected.approvals:
        raise EvidenceInvalid(
            f"{guarded.name}@{protected.alias} needs {protected.approvals} approvals, which this server cannot check",
            expected="an alias that needs none", next_step="leave the approvals at 0 until this server can check them",
        )  # fmt: skip
    admissible(decision, now)
    return examined


def protected_alias(guarded: GuardedModel, alias: str) -> ProtectedAlias:
    """The alias as the trust file protects it.

    Raises:
        EvidenceInvalid: the trust file does not name it.
    """
    for protected in guarded.aliases:
        if protected.alias == alias:
            return protected
    names = ", ".join(protected.alias for protected in guarded.aliases)
    raise EvidenceInvalid(f"the alias {alias!r} of {guarded.name!r} is not in the trust file", expected=names)


def plain_files(directory: Path) -> None:
    """Only files that hold no code: safetensors, JSON and text; a configuration that loads no class by name.

    Raises:
        EvidenceInvalid: another kind of file, or ``auto_mapping`` in the adapter's configuration.
    """
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        if path.is_file() and inside.parts[0] != EVIDENCE and path.suffix not in SUFFIXES:
            raise EvidenceInvalid(
                f"the adapter holds {inside}", expected=f"files that end in {', '.join(sorted(SUFFIXES))}"
            )
    config = directory / "adapter_config.json"
    if not config.is_file() or config.stat().st_size > LARGEST_CONFIG:
        raise EvidenceInvalid("the adapter has no adapter_config.json of a sensible size")
    try:
        values = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise EvidenceInvalid("adapter_config.json is no JSON") from error
    if not isinstance(values, dict) or values.get("auto_mapping"):
        raise EvidenceInvalid("adapter_config.json names classes to load (auto_mapping)", expected="none")
