"""Tickets: one fresh nonce for one attempt at one guarded alias, written down before it is handed out, then bound to
the one adapter that was made with it, before that is measured.

Not covered: spending them (``admission.py``), and who may bind them (``statements.py``).
"""

from __future__ import annotations

import secrets
from datetime import datetime

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.stages import StageStatement
from guardrail.evidence.tickets import LIFETIME, Ticket
from guardrail.evidence.trust import CLOCKS_DIFFER, Trust
from guardrail.records import Decision
from guardrail.registry.server.admission import protected_alias
from guardrail.registry.server.journal import Draft, Journal, Unneeded, draft
from guardrail.registry.server.state import Bound, State

NONCE_BYTES = 32


def issue(journal: Journal, trust: Trust, model: str, alias: str) -> Ticket:
    """A ticket for ``alias`` of ``model``.

    Raises:
        EvidenceInvalid: the model is not guarded, or the alias not protected, under exactly these names.
    """
    guarded = trust.guarded(model)
    if guarded is None or guarded.name != model:
        raise EvidenceInvalid(
            f"the model {model!r} is not guarded", expected="a model of the trust file, as spelt there"
        )
    protected_alias(guarded, alias)
    nonce = secrets.token_hex(NONCE_BYTES)

    journal.append(lambda _: draft("proposal", model=model, alias=alias, nonce=nonce))
    issued = journal.state().tickets[nonce]
    return Ticket(
        model=model, alias=alias, nonce=nonce, issued=issued.issued,
        expires=issued.issued + LIFETIME, ledger=issued.head.digest,
    )  # fmt: skip


def bind(journal: Journal, said: StageStatement, envelope: bytes, now: datetime) -> Bound:
    """Bind the ticket that a verified train statement names to its adapter; twice the same changes nothing.

    Raises:
        EvidenceInvalid: it names no adapter or no ticket of its model and alias, or one that is spent, expired or bound
            to another adapter.
    """
    bound, manifest = said.bound, said.bound.manifest
    if manifest is None:
        raise EvidenceInvalid("the train statement names no adapter", expected="the digest of one")

    def drafted(state: State) -> Draft:
        ticket = state.tickets.get(bound.nonce)
        if ticket is None or (ticket.model, ticket.alias) != (bound.model, bound.alias):
            raise EvidenceInvalid(
                "the statement names a nonce that this server did not issue for its model and alias",
                expected="the nonce of a ticket", next_step="start a new run with --gate",
            )  # fmt: skip
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
            )  # fmt: skip
        attempt = state.attempts.get((bound.model, bound.alias), 0) + 1
        return draft("proposal", model=bound.model, alias=bound.alias, nonce=bound.nonce, subject=manifest,
                     said=envelope, note=f"attempt {attempt}")  # fmt: skip

    journal.append(drafted)
    return journal.state().bound[bound.nonce]


def bound_ticket(decision: Decision, state: State) -> str:
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
