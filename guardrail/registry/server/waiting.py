"""Which evidence was admitted and waits for persons to agree. Not covered: their agreeing (``statements.py``)."""

from __future__ import annotations

from guardrail.registry.server.admission import protected_alias
from guardrail.registry.server.registrar import NOTE, Registrar
from guardrail.registry.server.state import Admitted
from guardrail.registry.server.statements import approved_by
from guardrail.registry.wire import Waiting, Waitings


def waiting(registrar: Registrar, model: str = "") -> Waitings:
    """Everything that waits, of one model or of all; oldest first."""
    court = registrar.court()
    found = [one for one in court.state.waiting() if model in ("", one.model)]
    return Waitings(waiting=tuple(_told(registrar, one) for one in found))


def _told(registrar: Registrar, found: Admitted) -> Waiting:
    match = NOTE.fullmatch(found.note)
    guarded = registrar.guarded_model(found.model)
    return Waiting(
        model=found.model, alias=found.alias, evidence=found.evidence, manifest=found.manifest,
        sealed=match[1] if match else "", nonce=found.nonce, since=found.time,
        approvals=protected_alias(guarded, found.alias).approvals,
        approved_by=approved_by(registrar.journal, registrar.court(), found.evidence),
    )  # fmt: skip
