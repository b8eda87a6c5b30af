"""Bundles with everything that a gated server asks for: a ticket, stages that signed, an adapter that was bound.

Not a test file. Not covered: measuring; the records say what an adapter that kept its safety would show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from policy_evidence import BASE
from registry_bundles import POLICY, decided, unsealed

from guardrail.evidence.bundle import Bundle, seal
from guardrail.evidence.chain.bound_records import bound_of, statement
from guardrail.evidence.digest import digest, sha256
from guardrail.evidence.envelope import sign, unverified_payload
from guardrail.evidence.keys.key_pairs import PrivateKey, public_of
from guardrail.evidence.statements.stage_statement import Approval, Stage, parse
from guardrail.evidence.statements.ticket_requests import signed_request
from guardrail.evidence.statements.tickets import Ticket
from guardrail.records import ModelRef
from guardrail.registry.gate.protocol import Submitted


class Gate(Protocol):
    """Whoever issues tickets and takes statements: a client of a server, or its parts."""

    def ticket(self, request: bytes) -> Ticket: ...

    def submit(self, envelope: bytes) -> Submitted: ...


Signers = Mapping[str, PrivateKey]
"""Stage to key; ``decide`` signs the decision."""


def drawn(gate: Gate, signers: Signers, model: str = "guarded", alias: str = "production") -> Ticket:
    """A ticket that the data stage asks for, and whoever trains may bind."""
    trainer = public_of(signers["train"]).keyid
    return gate.ticket(signed_request(model, alias, signers["data"], now=datetime.now(UTC), bind=[trainer]))


def staged(
    directory: Path,
    gate: Gate,
    signers: Signers,
    *,
    model: str = "guarded",
    alias: str = "production",
    safe: bool = True,
    seed: int = 0,
    now: datetime | None = None,
    policy_text: str = POLICY,
    prepare: Callable[[Path], object] = lambda _: None,
    ticket: Ticket | None = None,
    bind: bool = True,
    attempt: int | None = None,
    order: str = "",
    base: ModelRef = BASE,
    ends: Mapping[str, datetime] = MappingProxyType({}),
    bounded: bool = True,
    **changes: Any,
) -> Bundle:
    """A bundle that its stages have signed and nobody has decided on; ``changes`` replace what the evaluation says.

    ``order`` is another nonce, in whose order the prompts were asked. ``ends`` says when a stage's statement expires;
    unless ``bounded``, the decision does not heed it, as those of earlier releases.
    """
    now, ticket = now or datetime.now(UTC), ticket or drawn(gate, signers, model, alias)
    given: dict[str, Any] = {
        "model": model,
        "alias": alias,
        "safe": safe,
        "seed": seed,
        "now": now,
        "policy_text": policy_text,
        "nonce": order or ticket.nonce,
        "base": base,
    }
    bundle = unsealed(directory, prepare=prepare, **given)
    policy = bundle.decision.policy
    times = {"not_before": now - timedelta(minutes=1), "expires": now + timedelta(days=30)}

    def signed(stage: Stage, record: Any, after: str | None, *known: Any, **more: Any) -> bytes:
        bound = bound_of(ticket, policy, base, *known)
        said = {"after": after, "ledger": ticket.ledger, **times, **more}
        said["expires"] = ends.get(stage, said["expires"])
        return sign(statement(stage, bound, digest(record), **said), signers[stage])

    data = signed("data", bundle.data, None, bundle.data)
    train = signed("train", bundle.adapter, sha256(data), bundle.data, bundle.adapter)
    noted = gate.submit(train) if bind else None
    evaluate = signed(
        "evaluate",
        bundle.evaluation,
        sha256(train),
        bundle.data,
        bundle.adapter,
        bundle.evaluation,
        **{"ledger": noted.entry.digest if noted else ticket.ledger, **changes},
    )
    which = attempt if attempt is not None else noted.attempt if noted else 1
    return replace(
        bundle,
        decision=decided(bundle, now, which, min(ends.values()) if ends and bounded else None),
        stages={"data": data, "train": train, "evaluate": evaluate},
    )


def proven(directory: Path, gate: Gate, signers: Signers, **given: Any) -> Bundle:
    """The same with a signed decision."""
    return seal(staged(directory, gate, signers, **given), signers["decide"])


def vote(bundle: Bundle, key: PrivateKey, *, yes: bool = True, **changes: Any) -> bytes:
    """What a person says about a bundle; ``changes`` replace what the statement says."""
    evaluate = bundle.stages["evaluate"]
    said = parse(unverified_payload(evaluate))
    given = {
        "after": sha256(evaluate),
        "ledger": said.predicate.ledger,
        "not_before": said.predicate.not_before,
        "expires": said.predicate.expires,
        "approval": Approval(approved=yes, reason="looked at it"),
    }
    return sign(statement("approve", said.bound, said.predicate.record, **{**given, **changes}), key)
