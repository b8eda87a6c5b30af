"""The ticket of a run: asked for once, kept as ``ticket.json``, named by everything that the run's stages sign.

A run that has a ticket keeps it, because everything of the run names its nonce. Not covered: which attempt it becomes
(``attempts.py``), whether the server still honours it (the server says so), and that somebody deletes the file.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.evidence.expiry import expired
from guardrail.evidence.tickets import Ticket
from guardrail.pipeline.run import Run
from guardrail.policy.schema import Target

TICKET = "ticket.json"
AGAIN = "start in a new run directory, with a ticket of its own: guardrail data validate --gate URI --run DIR"


def take(run: Run, gate: str, now: datetime) -> Ticket:
    """The run's ticket; where it has none, the gated server at ``gate`` is asked for one for the policy's target.

    Raises:
        EvidenceInvalid: the run's ticket is broken, for another target or has expired, or the gate refuses.
        ServiceUnavailable: the gate does not answer.
        InvalidInput: there is no gate at this address, or it does not know the target.
    """
    ticket = held(run)
    if ticket is None:
        target = run.policy().policy.target
        ticket = _asked(gate, target)
        _require_for(ticket, target, "that the gated server gave")
        write_atomically(run.path / TICKET, canonical(ticket))
    return _require_valid(ticket, now)


def current(run: Run, now: datetime) -> Ticket | None:
    """The run's ticket, still good for work at ``now``; None where the run has none.

    Raises:
        EvidenceInvalid: it is broken, for another target, or has expired.
    """
    ticket = held(run)
    return None if ticket is None else _require_valid(ticket, now)


def held(run: Run) -> Ticket | None:
    """The run's ticket, expired or not (what was decided with it stays decided); None where the run has none.

    Raises:
        EvidenceInvalid: it is broken or for another target than the run's policy.
    """
    path = run.path / TICKET
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        ticket = Ticket.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceInvalid(f"{path} is no ticket: {error.error_count()} errors", next_step=AGAIN) from error
    if canonical(ticket) != data:
        raise EvidenceInvalid(f"{path} is not in the form that we write", next_step=AGAIN)
    _require_for(ticket, run.policy().policy.target, f"in {path}")
    return ticket


def _asked(gate: str, target: Target) -> Ticket:
    from guardrail.registry.gate_client import GateClient

    return GateClient(gate).ticket(target.model, target.alias)


def _require_for(ticket: Ticket, target: Target, source: str) -> None:
    if (ticket.model, ticket.alias) != (target.model, target.alias):
        raise EvidenceInvalid(
            f"the ticket {source} is for {ticket.model}@{ticket.alias}",
            expected=f"{target.model}@{target.alias}, the target of the run's policy",
            next_step=AGAIN,
        )


def _require_valid(ticket: Ticket, now: datetime) -> Ticket:
    if expired(ticket.expires, now):
        raise EvidenceInvalid(
            f"the ticket for {ticket.model}@{ticket.alias} expired at {ticket.expires}",
            expected=f"one that is good at {now}",
            next_step=AGAIN,
        )
    return ticket
