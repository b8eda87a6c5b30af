"""Which evidence was admitted and waits for persons to agree.

Not covered: their agreeing (``gate/statement_desk.py``).
"""

from __future__ import annotations

from guardrail.gate import proposed_files
from guardrail.gate.admission import Court
from guardrail.gate.ledger.ledger_state import Admitted
from guardrail.gate.ledger_drafts import Kept
from guardrail.gate.registrar import Registrar
from guardrail.gate.statement_desk import approved_by
from guardrail.registry.gate.protocol import Waiting, Waitings


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
    kept = Kept.of(found)
    came = proposed_files.origin(kept.model_id)
    return Waiting(
        model=found.model,
        alias=found.alias,
        evidence=found.evidence,
        manifest=found.manifest,
        sealed=kept.sealed,
        nonce=found.nonce,
        since=found.time,
        approvals=protected.approvals,
        approved_by=approved_by(registrar.journal, court, found.evidence),
        experiment_id=came.experiment_id,
        run_id=came.run_id,
    )
