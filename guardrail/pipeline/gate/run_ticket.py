"""The ticket of a run: asked for once, kept as ``ticket.json``, named by everything that the run's stages sign.

A run that has a ticket keeps it, because everything of the run names its nonce. The signed request is on the disk
before it is sent (``ticket-request.dsse.json``): after an interruption the same one is sent again, and gives the same
ticket. Not covered: which attempt it becomes (``gate_attempt.py``), whether the server still honours it (the server
says so), and that somebody deletes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.keys.key_pairs import PrivateKey, public_of
from guardrail.evidence.statements.ticket_requests import TICKET_REQUEST_TYPE, read_request, signed_request
from guardrail.evidence.statements.tickets import Ticket
from guardrail.pipeline.run import Run
from guardrail.policy.schema import Target

TICKET, REQUEST = "ticket.json", "ticket-request.dsse.json"
AGAIN = "start in a new run directory, with a ticket of its own: guardrail data validate --gate URI --run DIR"


@dataclass(frozen=True)
class Asking:
    """Who asks for a ticket: by which key, and the ids of the keys that may bind it (none: that key)."""

    key: PrivateKey | None
    bind: Sequence[str] = ()


def take(run: Run, gate: str, asking: Asking, now: datetime) -> Ticket:
    """The run's ticket; where it has none, the gated server at ``gate`` is asked for one for the policy's target.

    Raises:
        EvidenceInvalid: the run's ticket is broken, for another target or has expired, or the gate refuses.
        ServiceUnavailable: the gate, or the key's service, does not answer.
        InvalidInput: there is no gate at this address, or it does not know the target; or there is no key to ask with.
    """
    ticket = held(run)
    if ticket is None:
        target = run.policy().policy.target
        ticket = _asked(gate, _request(run, target, asking, now))
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
    data = nofollow.read(path)
    if data is None:
        return None
    try:
        ticket = Ticket.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceInvalid(f"{path} is no ticket: {error.error_count()} errors", next_step=AGAIN) from error
    if canonical(ticket) != data:
        raise EvidenceInvalid(f"{path} is not in the form that we write", next_step=AGAIN)
    _require_for(ticket, run.policy().policy.target, f"in {path}")
    return ticket


def _asked(gate: str, request: bytes) -> Ticket:
    from guardrail.registry.gate.client import GateClient

    return GateClient(gate).ticket(request)


def _request(run: Run, target: Target, asking: Asking, now: datetime) -> bytes:
    """The signed request; the one that an interrupted run left, while it holds and asks for the same."""
    if asking.key is None:
        raise InvalidInput(
            "a ticket is given to a key only, and none was given",
            expected="the key of the role data or train",
            next_step="give --sign-key, too",
        )
    path, bind = run.path / REQUEST, sorted(set(asking.bind) or {public_of(asking.key).keyid})
    earlier = path.read_bytes() if path.is_file() else b""
    if _same(earlier, target, bind, asking.key, now):
        return earlier
    request = signed_request(target.model, target.alias, asking.key, now=now, bind=bind)
    write_atomically(path, request)
    return request


def _same(earlier: bytes, target: Target, bind: Sequence[str], key: PrivateKey, now: datetime) -> bool:
    try:
        verify(earlier, [public_of(key)], payload_type=TICKET_REQUEST_TYPE)
        request = read_request(earlier)
    except EvidenceInvalid:
        return False
    asks = (request.model, request.alias, list(request.bind))
    return asks == (target.model, target.alias, list(bind)) and request.not_before <= now < request.expires


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
