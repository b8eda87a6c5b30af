"""Whether an entry follows from the one before: its number, the digest it names, and its time.

Pure. Not covered: signatures and forms (``signed_ledger.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import GENESIS
from guardrail.evidence.ledger.entries import Entry, Head, Jump

BACKWARDS = timedelta(seconds=60)
"""How far a clock may step back (it is reported); beyond it nothing is accepted."""

AHEAD = timedelta(minutes=5)
"""How far an entry's time may lie after the reader's clock."""


@dataclass
class LedgerChain:
    """How far a ledger has been followed, and what it must come to."""

    head: Head | None
    now: datetime | None = None
    exported: Head | None = None
    jumps: list[Jump] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Of the last entry; 0 before the first."""
        return self.head.number if self.head else 0

    def follow(self, entry: Entry, digest: str) -> Head:
        """Take one entry more, whose envelope has this digest; the head after it.

        Raises:
            EvidenceInvalid: it does not follow, its time cannot be, or it is not the exported head's.
        """
        self._in_order(entry)
        latest = self._in_time(entry)
        self.head = head = Head(number=entry.number, digest=digest, time=latest)
        if self.exported and self.exported.number == entry.number and self.exported.digest != digest:
            raise EvidenceInvalid(
                f"entry {entry.number} is not the one whose digest was exported",
                expected=f"an envelope with the digest {self.exported.digest}",
                next_step="compare with a copy of the ledger: it was written anew",
            )
        return head

    def finish(self) -> None:
        """Nothing more follows.

        Raises:
            EvidenceInvalid: the exported head is further on.
        """
        if self.exported and self.exported.number > self.number:
            raise EvidenceInvalid(
                f"the ledger ends with entry {self.number}",
                expected=f"entry {self.exported.number}, which the exported head names",
                next_step="the end was cut off: restore it from a copy",
            )

    def _in_order(self, entry: Entry) -> None:
        expected = self.number + 1
        if entry.number != expected:
            why = "its number was there before" if entry.number < expected else "entries are missing before it"
            raise EvidenceInvalid(f"entry {entry.number} stands where entry {expected} should: {why}")
        if entry.previous != (self.head.digest if self.head else GENESIS):
            raise EvidenceInvalid(
                f"entry {entry.number} does not follow from the entry before it",
                expected="the digest of the envelope before",
                next_step="an entry was changed, removed, inserted or moved: compare with a copy",
            )

    def _in_time(self, entry: Entry) -> datetime:
        """The latest time so far, this entry's included."""
        if self.now is not None and not entry.time <= self.now + AHEAD:
            raise EvidenceInvalid(
                f"entry {entry.number} is from {entry.time}",
                expected=f"at most {AHEAD.total_seconds():.0f} s after the clock here, which says {self.now}",
                next_step="set this clock; if it is right, the server's was ahead when it wrote the entry: wait, or "
                "ask its operator (Clocks in docs/server.md)",
            )
        if self.head is None or entry.time >= self.head.time:
            return entry.time
        back = self.head.time - entry.time
        if not back <= BACKWARDS:
            raise EvidenceInvalid(
                f"entry {entry.number} is from {entry.time}, {back.total_seconds():.0f} s before an earlier entry",
                expected=f"a clock that steps back by at most {BACKWARDS.total_seconds():.0f} s",
                next_step="set the server's clock; if it is right, it was ahead when the earlier entry was written: "
                f"wait until {self.head.time - BACKWARDS}, or see Clocks in docs/server.md",
            )
        self.jumps.append(Jump(number=entry.number, seconds=back.total_seconds()))
        return self.head.time
