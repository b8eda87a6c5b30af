"""What a person may order of a registry against its normal course: an alias back, or an adapter out.

    rollback     an alias moves from one version to an earlier one; it names both and the ledger's head, so it is good
                 once, for exactly this situation
    revocation   an adapter, by the digest of its manifest, is never admitted and never resolved again

Both are in-toto statements, signed by keys of the role ``approve``; the subject is the adapter that is ordered back or
out. Not covered: carrying them out (``gate/statement_desk.py`` and ``registrar.py``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.envelope import signers, unverified_payload, verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.statements.intoto import StatementForm, make, read, write
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, Trust
from guardrail.names import Alias, ModelName
from guardrail.records import Frozen, Sha256, Utc

ROLLBACK, REVOCATION = "urn:mlflow-guardrail:rollback:v1", "urn:mlflow-guardrail:revocation:v1"
Reason = Annotated[str, StringConstraints(min_length=1, max_length=3000)]
VersionNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$")]


class Rollback(Frozen):
    """``alias`` of ``model`` moves from version ``from_version`` to ``to_version``; ``ledger`` is the head's digest."""

    schema_version: Literal[1] = 1
    model: ModelName
    alias: Alias
    from_version: VersionNumber
    to_version: VersionNumber
    manifest: Sha256
    ledger: Sha256
    reason: Reason
    not_before: Utc
    expires: Utc


class Revocation(Frozen):
    """The adapter with this manifest is out, everywhere."""

    schema_version: Literal[1] = 1
    manifest: Sha256
    reason: Reason
    not_before: Utc
    expires: Utc


class RollbackStatement(StatementForm):
    """One in-toto Statement v1."""

    predicate_type: Literal["urn:mlflow-guardrail:rollback:v1"] = Field(alias="predicateType")
    predicate: Rollback


class RevocationStatement(StatementForm):
    """One in-toto Statement v1."""

    predicate_type: Literal["urn:mlflow-guardrail:revocation:v1"] = Field(alias="predicateType")
    predicate: Revocation


Order: TypeAlias = Rollback | Revocation


def build(order: Order) -> bytes:
    """The canonical bytes of the order's statement."""
    subjects = {"adapter": order.manifest}
    if isinstance(order, Rollback):
        return write(make(RollbackStatement, subjects, ROLLBACK, order))
    return write(make(RevocationStatement, subjects, REVOCATION, order))


def parse(payload: bytes) -> Order:
    """Read an order back.

    Raises:
        EvidenceInvalid: it is none, or not canonical.
    """
    statement: RollbackStatement | RevocationStatement
    if f'"predicateType":"{ROLLBACK}"'.encode() in payload:
        statement = read(payload, RollbackStatement)
    else:
        statement = read(payload, RevocationStatement)
    if statement.subjects != {"adapter": statement.predicate.manifest}:
        raise EvidenceInvalid("the order is about another adapter than it names", expected="one and the same digest")
    return statement.predicate


def verified(data: bytes, trust: Trust, *, persons: int, now: datetime) -> tuple[Order, tuple[str, ...]]:
    """The order and who gave it, if it is signed by that many different persons who may approve, and valid now.

    Raises:
        EvidenceInvalid: signed by others or by too few, not valid now, or no order.
    """
    order = parse(verify(data, trust.keys_of("approve")))
    found = trust.persons_of(signers(data))
    if not len(found) >= max(1, persons):
        raise EvidenceInvalid(
            f"the order is signed by {len(found)} persons who may approve",
            expected=f"{max(1, persons)}",
            next_step="have it signed by more of them: --add-signature",
        )
    if not order.not_before <= now + CLOCKS_DIFFER:
        raise EvidenceInvalid(f"the order holds only from {order.not_before}", expected=f"{now}")
    if expired(order.expires, now):
        raise EvidenceInvalid(f"the order expired at {order.expires}", expected="a new one")
    return order, found


def is_order(data: bytes) -> bool:
    """Whether an envelope claims to hold an order."""
    payload = unverified_payload(data)
    return any(f'"predicateType":"{kind}"'.encode() in payload for kind in (ROLLBACK, REVOCATION))
