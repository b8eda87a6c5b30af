"""Tickets: one fresh nonce for one attempt at one guarded alias, written down before it is handed out, then bound to
the one adapter that was made with it, before that is measured.

A ticket is for the key that signed the request, and is bound by those whom the request names. Each key may hold so many
that are not used up, for each alias; what others hold takes nothing from that. Whoever has no key in the trust file
gets none, and leaves no trace. Not covered: spending them (``ledger_drafts.py``).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import datetime

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.envelope import signers
from guardrail.evidence.statements.stage_statement import StageStatement
from guardrail.evidence.statements.ticket_requests import (
    VerifiedRequest,
    require_current,
    require_may_bind,
    verified_request,
)
from guardrail.evidence.statements.tickets import LIFETIME, Ticket
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, Trust
from guardrail.gate.admission import protected_alias
from guardrail.gate.ledger.journal import Draft, Journal, Unneeded, draft
from guardrail.gate.ledger.ledger_state import BoundCandidate, LedgerState
from guardrail.gate.ledger.open_tickets import Holder
from guardrail.records import Decision

NONCE_BYTES = 32
MOST_OPEN = 32
OPEN = "GUARDRAIL_OPEN_TICKETS"
"""The variable by which an operator changes how many tickets for an alias a key may hold, neither spent nor expired."""
"""The tickets that a key may hold for one alias, neither spent nor expired."""


def issue(journal: Journal, trust: Trust, envelope: bytes, now: datetime) -> Ticket:
    """The ticket that a signed request asks for; the same request gives the same ticket.

    Raises:
        EvidenceInvalid: the request is not signed by a key that may ask, or does not hold now; the model is not
            guarded, or the alias not protected, under exactly these names; or the key holds too many already.
    """
    asked = verified_request(envelope, trust)
    require_current(asked.request, now)
    model, alias = asked.request.model, asked.request.alias
    guarded = trust.guarded(model)
    if guarded is None or guarded.name != model:
        raise EvidenceInvalid(
            f"the model {model!r} is not guarded", expected="a model of the trust file, as spelt there"
        )
    protected_alias(guarded, alias)

    def drafted(state: LedgerState) -> Draft:
        if asked.digest in state.open.by_request:
            raise Unneeded
        _require_room(asked, state, now)
        return draft(
            "proposal", model=model, alias=alias, nonce=secrets.token_hex(NONCE_BYTES), said=envelope, note=asked.key_id
        )

    journal.append(drafted)
    return _ticket(journal.state(), asked)


def _ticket(state: LedgerState, asked: VerifiedRequest) -> Ticket:
    nonce = state.open.by_request[asked.digest]
    issued = state.tickets[nonce]
    return Ticket(
        model=issued.model,
        alias=issued.alias,
        nonce=nonce,
        issued=issued.issued,
        expires=issued.issued + LIFETIME,
        ledger=issued.head.digest,
    )


def most_open(environ: Mapping[str, str]) -> int:
    """How many open tickets for an alias a key may hold.

    Raises:
        InvalidInput: the operator's number is none above 0.
    """
    text = environ.get(OPEN, str(MOST_OPEN))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text) > 0):
        raise InvalidInput(f"{OPEN} is {text!r}", expected="a whole number above 0, such as 32")
    return int(text)


def _require_room(asked: VerifiedRequest, state: LedgerState, now: datetime) -> None:
    request = asked.request
    expiries = state.open.of(Holder(asked.key_id, request.model, request.alias), now)
    most = most_open(os.environ)
    if not len(expiries) < most:
        raise EvidenceInvalid(
            f"the key {asked.key_id} holds {len(expiries)} tickets for {request.model}@{request.alias}",
            expected=f"fewer than {most} that are neither spent nor expired",
            next_step=f"use or finish runs that have one; the next expires at {expiries[0]}",
        )


def _require_allowed(journal: Journal, trust: Trust, request: str | None, envelope: bytes) -> None:
    """The train statement is by those for whom the ticket was asked, and whoever asked may still ask."""
    if request is None:
        raise EvidenceInvalid(
            "the ticket is from before requests were signed, so whose it is is not known",
            expected="a ticket of a key",
            next_step="start a new run with --gate",
        )
    require_may_bind(verified_request(journal.statement(request), trust), signers(envelope), trust)


def bind(journal: Journal, trust: Trust, said: StageStatement, envelope: bytes, now: datetime) -> BoundCandidate:
    """Bind the ticket that a verified train statement names to its adapter; twice the same changes nothing.

    Raises:
        EvidenceInvalid: it names no adapter or no ticket of its model and alias, or one that is spent, expired, bound
            to another adapter or asked for by others.
    """
    bound, manifest = said.bound, said.bound.manifest
    if manifest is None:
        raise EvidenceInvalid("the train statement names no adapter", expected="the digest of one")

    def drafted(state: LedgerState) -> Draft:
        ticket = state.tickets.get(bound.nonce)
        if ticket is None or (ticket.model, ticket.alias) != (bound.model, bound.alias):
            raise EvidenceInvalid(
                "the statement names a nonce that this server did not issue for its model and alias",
                expected="the nonce of a ticket",
                next_step="start a new run with --gate",
            )
        _require_allowed(journal, trust, state.open.requests.get(bound.nonce), envelope)
        earlier = state.bound.get(bound.nonce)
        if earlier is not None and earlier.manifest == manifest:
            raise Unneeded
        if bound.nonce in state.closed or not now < ticket.issued + LIFETIME:
            raise EvidenceInvalid("the ticket is spent or expired", next_step="start a new run with --gate")
        if earlier is not None:
            raise EvidenceInvalid(
                f"the ticket is bound to the adapter {earlier.manifest}",
                expected=f"a ticket of its own for {manifest}",
                next_step="start a new run with --gate: a ticket is for one adapter",
            )
        attempt = state.attempts.get((bound.model, bound.alias), 0) + 1
        return draft(
            "proposal",
            model=bound.model,
            alias=bound.alias,
            nonce=bound.nonce,
            subject=manifest,
            said=envelope,
            note=f"attempt {attempt}",
        )

    journal.append(drafted)
    return journal.state().bound[bound.nonce]


def bound_ticket(decision: Decision, state: LedgerState) -> str:
    """The nonce of the ticket that a denial is about: of its model and alias, bound to its adapter as its attempt.

    Raises:
        EvidenceInvalid: there is none.
    """
    about = (decision.model, decision.alias, decision.manifest, decision.attempt)
    latest = decision.decided_at + CLOCKS_DIFFER
    for nonce, bound in reversed(list(state.bound.items())):
        ticket = state.tickets.get(nonce)
        fits = ticket is not None and (ticket.model, ticket.alias, bound.manifest, bound.attempt) == about
        if fits and bound.head.time <= latest:  # a denial from before says nothing about a new measurement
            return nonce
    raise EvidenceInvalid(
        "the denial is about an adapter that no ticket of its model and alias is bound to as this attempt",
        expected="one that is",
    )
