"""Ledgers for tests: a short history, signed with real keys. Not a test file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from trust_files import NOW, key

from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import sign
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE, advance, append, next_entry

KINDS: tuple[EntryKind, ...] = (
    "proposal",
    "decision",
    "approval",
    "denial",
    "rejection",
    "revocation",
    "rollback",
    "trust",
)


def history(count: int, name: str = "server", note: str = "", seconds: Sequence[float] = ()) -> list[bytes]:
    """``count`` envelopes, a second apart, or at the given seconds after :data:`NOW`."""
    head: Head | None = None
    made = []
    for index in range(count):
        at = NOW + timedelta(seconds=seconds[index] if seconds else index)
        entry = next_entry(
            head, time=at, kind=KINDS[index % len(KINDS)], model="guarded", note=note, version=str(index)
        )
        data = append(head, entry, key(name))
        made.append(data)
        head = advance(head, data)
    return made


def head_of(envelopes: Sequence[bytes]) -> Head:
    """The head after all of them."""
    head: Head | None = None
    for data in envelopes:
        head = advance(head, data)
    assert head is not None
    return head


def forged(entry: Entry, name: str = "server", **changes: Any) -> bytes:
    """A signed envelope of an entry that nobody checked."""
    return sign(canonical(entry.model_copy(update=changes)), key(name), payload_type=LEDGER_TYPE)
