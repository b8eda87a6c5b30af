"""Whether a stage's statement says what the records show, WITHOUT looking at its signature.

Whoever signs, promotes or hands a candidate on finds here early what the server would refuse later.
Not covered: who signed (``stage_chain.py``, with a trust file), which the server checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.expiry import expired
from guardrail.evidence.statements.stage_statement import Binding, Stage, StageStatement, parse
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER
from guardrail.records import ModelRef


@dataclass(frozen=True)
class ExpectedStatement:
    """What the statement of a stage must say: what it binds, its record, the envelope and the ledger before it."""

    stage: Stage
    bound: Binding
    record: str
    after: str | None
    ledger: str


def differs(envelope: bytes, expected: ExpectedStatement, now: datetime) -> str:
    """How the statement differs from what is expected or is out of its time, in words; empty where it does not."""
    try:
        said = _read(envelope)
    except EvidenceInvalid as error:
        return f"cannot be read: {error.got}"
    predicate = said.predicate
    mine, theirs = expected.bound, said.bound
    unlike = [name for name in Binding.model_fields if getattr(mine, name) != getattr(theirs, name)]
    rules = {
        "is of another stage": said.stage == expected.stage,
        "names another record": predicate.record == expected.record,
        f"binds another {', '.join(unlike)}": not unlike,
        "follows another statement": predicate.after == expected.after,
        "names another entry of the ledger": predicate.ledger == expected.ledger,
        f"holds only from {predicate.not_before}": predicate.not_before <= now + CLOCKS_DIFFER,
        f"expired at {predicate.expires}": not expired(predicate.expires, now),
    }
    return next((text for text, holds in rules.items() if not holds), "")


def base_said(envelope: bytes) -> ModelRef:
    """The base that a statement binds.

    Raises:
        EvidenceInvalid: it is no statement.
    """
    return _read(envelope).bound.base


def _read(envelope: bytes) -> StageStatement:
    return parse(unverified_payload(envelope))
