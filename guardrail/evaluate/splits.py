"""Which items of a published file belong to which split: thresholds are chosen on one, the gate judges on the other.

Published suites come without such a split. An item's split follows from the SHA-256 of its text alone, so it is the
same in every file and on every machine, and a text that two benchmarks share is never chosen on in one and judged on
in the other. A fifth is ``validation``, the rest is ``gate``; ``all`` is both.

Not covered: near-duplicates across splits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from guardrail.errors import InvalidInput
from guardrail.plugins import suggestion

SPLITS = ("all", "gate", "validation")
PARTS = 5

Item = TypeVar("Item")


def split_of(text: str) -> str:
    """``gate`` or ``validation``; case and white space do not count."""
    return "validation" if int(hashlib.sha256(plain(text).encode()).hexdigest()[:8], 16) % PARTS == 0 else "gate"


def plain(text: str) -> str:
    """The text by which prompts are compared: without case and superfluous white space."""
    return re.sub(r"\s+", " ", text).strip().casefold()


def select(items: Iterable[Item], split: str, key: Callable[[Item], str], source: str) -> tuple[Item, ...]:
    """The items of ``split``, in order; ``key`` gives the text that decides.

    Raises:
        InvalidInput: there is no such split, or no item is in it.
    """
    if split not in SPLITS:
        raise InvalidInput(
            f"unknown split {split!r}", expected="one of " + ", ".join(SPLITS), next_step=suggestion(split, SPLITS)
        )
    chosen = tuple(item for item in items if split in ("all", split_of(key(item))))
    if not chosen:
        raise InvalidInput(
            f"{source} has nothing in the split {split!r}", expected="at least one item", next_step="use split: all"
        )
    return chosen
