"""When evidence ends: one comparison for everything that expires, and the earliest of all that a decision rests on.

What expires at a time is not valid at that time any more (as JSON Web Tokens' ``exp``, RFC 7519 section 4.1.4).
Not covered: when something begins to hold, where clocks may differ (``CLOCKS_DIFFER``), and whose signatures count.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.stages import parse


def expired(expires: datetime, now: datetime) -> bool:
    """Whether what expires at ``expires`` is not valid any more; both aware, in any zone."""
    return not now < expires


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
