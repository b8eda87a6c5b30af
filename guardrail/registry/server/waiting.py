"""Which evidence was admitted and waits for persons to agree. Not covered: their agreeing (``statements.py``)."""

from __future__ import annotations

from guardrail.registry.server.admission import Court
from guardrail.registry.server.recording import Kept
from guardrail.registry.server.registrar import Registrar
from guardrail.registry.server.state import Admitted
from guardrail.registry.server.statements import approved_by
from guardrail.registry.wire import Waiting, Waitings


def waiting(registrar: Registrar, model: str = "") -> Waitings:
    """Everything that waits, of one model or of all; oldest first."""
    court = registrar.court()
    told = (_told(registrar, court, one) for one in court.state.waiting() if model in ("", one.model))
    return Waitings(waiting=tuple(one for one in told if one is not None))


def _told(registrar: Registrar, court: Court, found: Admitted) -> Waiting | None:
    """None for what the trust file no longer guards: nobody can agree to that."""
    guarded = court.trust.guarded(found.model)
    protected = guarded.protected(found.alias) if guarded else None
    if protected is None:
        return None
    return Waiting(
        model=found.model, alias=found.alias, evidence=found.evidence, manifest=found.manifest,
        sealed=Kept.of(found).sealed, nonce=found.nonce, since=found.time,
        approvals=protected.approvals,
        approved_by=approved_by(registrar.journal, court, found.evidence),
    )  # fmt: skip
