"""The earliest end of all statements that a decision rests on.

Not covered: whose signatures count.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.statements.stage_statement import parse


def earliest(expires: datetime, statements: Iterable[bytes]) -> datetime:
    """``expires``, or when the first of the stages' statements does, WITHOUT looking at their signatures.

    Raises:
        EvidenceInvalid: one of them is no statement of a stage.
    """
    return min((expires, *map(expiry_of, statements)))


def expiry_of(statement: bytes) -> datetime:
    """When a stage's statement expires, WITHOUT looking at its signature.

    Raises:
        EvidenceInvalid: it is none.
    """
    return parse(unverified_payload(statement)).predicate.expires
