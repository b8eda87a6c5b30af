"""A request for a ticket: signed by the key that the ticket will be counted for, and naming who may bind it.

A DSSE envelope of a payload type of its own, so that it is never taken for a statement. It names model and alias, holds
for an hour at most, and carries a number drawn by whoever asks: one request gives one ticket, however often it is
handed in, and by whomever. The keys that it names stand for the persons behind them, as everywhere in a trust file: the
job that prepares data need not hold the trainer's key, and a trainer may use another of theirs.
Not covered: how many tickets a key may hold (``gate/ticket_office.py``), and that the persons who are named agree.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign, signers, unverified_payload, verify
from guardrail.evidence.keys.key_pairs import PrivateKey, public_of
from guardrail.evidence.statements.stage_statement import Nonce
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, KeyId, Trust
from guardrail.names import Alias, ModelName
from guardrail.records import Frozen, Utc

TICKET_REQUEST_TYPE = "application/vnd.mlflow-guardrail.ticket-request+json"
HOLDS = timedelta(hours=1)
"""The longest time for which a request may hold."""
MOST_KEYS = 16
WHO = "a key of the role data or train"
AGAIN = "guardrail data validate --gate URI --sign-key KEY asks anew"


class TicketRequest(Frozen):
    """What is asked for: a ticket for ``alias`` of ``model``, which train keys of the persons behind ``bind`` may bind.

    ``request`` is drawn by whoever asks. It holds from ``not_before`` until ``expires`` (UTC).
    """

    alias: Alias
    bind: Annotated[tuple[KeyId, ...], Field(min_length=1, max_length=MOST_KEYS)]
    expires: Utc
    model: ModelName
    not_before: Utc
    request: Nonce
    schema_version: Literal[1] = 1

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if list(self.bind) != sorted(set(self.bind)):
            raise ValueError("the keys that may bind are named twice or out of order")
        if not timedelta(0) < self.expires - self.not_before <= HOLDS:
            raise ValueError(f"a request holds for at most {HOLDS}")
        return self


@dataclass(frozen=True)
class VerifiedRequest:
    """A request whose signature verified: by whose key, and the digest of its envelope."""

    request: TicketRequest
    key_id: str
    digest: str


def signed_request(model: str, alias: str, key: PrivateKey, *, now: datetime, bind: Sequence[str] = ()) -> bytes:
    """A new request, signed by ``key``; ``bind`` are the ids of the keys that may bind the ticket (none: its own).

    Raises:
        ServiceUnavailable: the key's service does not answer.
    """
    named = tuple(sorted(set(bind) or {public_of(key).keyid}))
    request = TicketRequest(
        alias=alias, bind=named, expires=now + HOLDS, model=model, not_before=now, request=secrets.token_hex(32)
    )
    return sign(canonical(request), key, payload_type=TICKET_REQUEST_TYPE)


def read_request(data: bytes) -> TicketRequest:
    """What a request says, WITHOUT looking at its signature.

    Raises:
        EvidenceInvalid: it is none, or not in its canonical form.
    """
    payload = unverified_payload(data, payload_type=TICKET_REQUEST_TYPE)
    try:
        request = TicketRequest.model_validate_json(payload)
    except ValidationError as error:
        raise EvidenceInvalid(f"the request for a ticket makes no sense: {error.errors()[0]['msg']}") from error
    if canonical(request) != payload:
        raise EvidenceInvalid("the request for a ticket is not in its canonical form", expected="RFC 8785 bytes")
    return request


def verified_request(data: bytes, trust: Trust) -> VerifiedRequest:
    """A request that one key signed which may ask, by a trust file; whether it holds now is asked elsewhere.

    Raises:
        EvidenceInvalid: it is none, is not signed as it must be, or names nobody who may train.
    """
    request = _read(data)
    verify(data, (*trust.keys_of("data"), *trust.keys_of("train")), payload_type=TICKET_REQUEST_TYPE)
    by = signers(data, payload_type=TICKET_REQUEST_TYPE)
    if len(by) != 1:
        raise EvidenceInvalid(f"the request for a ticket has {len(by)} signatures", expected="one: it counts for a key")
    if not _trainers(request, trust):
        raise EvidenceInvalid(
            "the request names no key of anybody who may train, so nobody could bind the ticket",
            expected="the key of whoever trains with it",
            next_step="guardrail data validate --train-key PUBLIC, with the trainer's public key",
        )
    return VerifiedRequest(request, by[0], sha256(data))


def require_current(request: TicketRequest, now: datetime) -> None:
    """The request holds now.

    Raises:
        EvidenceInvalid: not yet, or not any more.
    """
    if not request.not_before <= now + CLOCKS_DIFFER:
        raise EvidenceInvalid(f"the request for a ticket holds only from {request.not_before}", expected=f"{now}")
    if not now < request.expires:
        raise EvidenceInvalid(
            f"the request for a ticket expired at {request.expires}",
            expected=f"one that holds at {now}",
            next_step=AGAIN,
        )


def require_may_bind(asked: VerifiedRequest, key_ids: Sequence[str], trust: Trust) -> None:
    """Whoever signed a train statement is among those for whom the ticket was asked.

    Raises:
        EvidenceInvalid: it is somebody else's ticket.
    """
    allowed, persons = _trainers(asked.request, trust), set(trust.persons_of(tuple(key_ids)))
    if not persons or not persons <= allowed:
        raise EvidenceInvalid(
            f"the ticket was asked for {', '.join(sorted(allowed))}; {', '.join(sorted(persons)) or 'nobody'} signed",
            expected="the train statement of a person whose key the request names",
            next_step="start a new run with --gate: each trainer binds tickets of their own",
        )


def _read(data: bytes) -> TicketRequest:
    """Tell whoever asks as before requests were signed what to do."""
    try:
        return read_request(data)
    except EvidenceInvalid as error:
        raise EvidenceInvalid(
            f"this is no signed request for a ticket: {error.got}", expected=f"one signed by {WHO}", next_step=AGAIN
        ) from error


def _trainers(request: TicketRequest, trust: Trust) -> set[str]:
    """The persons behind the keys that the request names, as far as they may train."""
    return set(trust.persons_of(request.bind)) & set(trust.persons_of(trust.roles.train))
