"""Whether what names something and what it names agree, for everything whose parts must belong together."""

from __future__ import annotations

from collections.abc import Iterable

from guardrail.errors import EvidenceInvalid

Claim = tuple[str, str, str]
"""What it is about, what is said of it, and what is true."""


def require_agreement(pairs: Iterable[Claim], *, whose: str = "", parts: str, next_step: str = "") -> None:
    """Refuse the first of ``pairs`` where what is said is not what is true.

    Args:
        pairs: see :data:`Claim`.
        whose: what the message begins with: a path, say.
        parts: what they would be if they agreed ("records that were made from one another").
        next_step: what to do.

    Raises:
        EvidenceInvalid: naming both.
    """
    for what, said, true in pairs:
        if said != true:
            raise EvidenceInvalid(
                f"{whose}{what} is {_short(said)}", expected=f"{_short(true)}: {parts}", next_step=next_step
            )


def _short(value: str) -> str:
    """Digests by their beginning, everything else whole and in ASCII."""
    return f"{value[:12]}…" if len(value) == 64 else f"{value!a}"
