"""What a ledger's entries add up to for whoever verifies: one reducer for the server, its clients and auditors.

Pure: entries go in, in order, from the first or from a checkpoint; both ways give the same. Each entry of the kind
``checkpoint`` is compared with what the entries before it add up to, so whoever reads one finds a server that lied.
Not covered: signatures and the chain (``signed_ledger.py``, ``follows.py``), and what only a server asks, such as which
tickets are open (``gate/ledger/ledger_state.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest
from guardrail.evidence.ledger.checkpoint import Anchor, BoundTicket, Checkpoint, PlaceSums
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.evidence.ledger.follows import BACKWARDS
from guardrail.evidence.statements.tickets import LIFETIME

KEPT: frozenset[EntryKind] = frozenset(
    {"decision", "approval", "rejection", "promotion", "rollback", "revocation", "trust"}
)
"""Entries that a verifier may ask for, however old. Tickets, adapters and denials are counted only."""
ModelAlias = tuple[str, str]


@dataclass
class Sums:
    """What was added up so far. ``latest`` is the last checkpoint that was met, or started from."""

    head: Head | None = None
    entries: list[Entry] = field(default_factory=list)
    attempts: dict[str, BoundTicket] = field(default_factory=dict)
    """By the ticket's nonce."""
    adapters: dict[ModelAlias, int] = field(default_factory=dict)
    since: dict[ModelAlias, int] = field(default_factory=dict)
    """Attempts since the last promotion."""
    latest: Anchor | None = None
    checkpoints: int = 0
    _admitted: set[str] = field(default_factory=set)
    """Nonces of what was admitted."""
    _proven: bool = True

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Sums:
        """Go on from a checkpoint; it counts once the first entry taken names its digest."""
        return cls(
            head=checkpoint.head,
            entries=list(checkpoint.entries),
            attempts={one.nonce: one for one in checkpoint.attempts},
            adapters={(one.model, one.alias): one.adapters for one in checkpoint.places},
            since={(one.model, one.alias): one.attempts for one in checkpoint.places},
            _admitted={entry.nonce for entry in checkpoint.entries if entry.kind == "decision"},
            _proven=False,
        )

    @property
    def number(self) -> int:
        """Of the last entry that was taken; 0 before the first."""
        return self.head.number if self.head else 0

    def take(self, entry: Entry, head: Head) -> None:
        """The next entry; ``head`` is the ledger's after it.

        Raises:
            EvidenceInvalid: it is a checkpoint that does not say what the entries before it add up to, or it is none
                where a checkpoint was started from.
        """
        if entry.kind == "checkpoint":
            self._compare(entry)
        elif not self._proven:
            raise _unproven(f"entry {entry.number} is a {entry.kind}")
        self._count(entry)
        self.head = head

    def require_proven(self) -> None:
        """The checkpoint that was started from is one that the ledger names.

        Raises:
            EvidenceInvalid: no entry was taken since.
        """
        if not self._proven:
            raise _unproven("no entry follows the checkpoint")

    def checkpoint(self) -> Checkpoint:
        """What was added up, as a checkpoint says it.

        Raises:
            EvidenceInvalid: nothing was.
        """
        if self.head is None:
            raise EvidenceInvalid("there is no entry before the checkpoint", expected="an entry to add up")
        return Checkpoint(
            attempts=tuple(self.attempts[nonce] for nonce in sorted(self.attempts) if self._may_matter(nonce)),
            entries=tuple(self.entries),
            head=self.head,
            places=tuple(
                PlaceSums(
                    adapters=self.adapters[model, alias], alias=alias, attempts=self.since[model, alias], model=model
                )
                for model, alias in sorted(self.adapters)
            ),
        )

    def _compare(self, entry: Entry) -> None:
        made = self.checkpoint()
        if digest(made) != entry.subject:
            raise EvidenceInvalid(
                f"entry {entry.number} is a checkpoint of {entry.subject or 'nothing'}",
                expected=f"{digest(made)}, which is what the entries before it add up to",
                next_step="the server's checkpoint is false: keep the ledger as evidence, verify by nothing it signs",
            )
        self.attempts = {one.nonce: one for one in made.attempts}
        self.latest = Anchor(checkpoint=made, digest=entry.subject, number=entry.number)
        self.checkpoints += 1
        self._proven = True

    def _count(self, entry: Entry) -> None:
        if entry.kind in KEPT:
            self.entries.append(entry)
        place = (entry.model, entry.alias)
        if all(place):
            self.adapters.setdefault(place, 0)
            self.since.setdefault(place, 0)
        if entry.kind == "proposal" and entry.subject:
            self._bind(entry, place)
        elif entry.kind == "decision":
            self._admitted.add(entry.nonce)
        elif entry.kind == "denial" and entry.evidence and entry.nonce not in self._admitted:
            self.attempts.pop(entry.nonce, None)  # it is spent: nothing is admitted with it any more
        elif entry.kind == "promotion" and all(place):
            self.since[place] = 0

    def _bind(self, entry: Entry, place: ModelAlias) -> None:
        if entry.nonce in self.attempts or not all(place):
            return
        self.adapters[place] += 1
        self.since[place] += 1
        self.attempts[entry.nonce] = BoundTicket(
            alias=entry.alias,
            manifest=entry.subject,
            model=entry.model,
            nonce=entry.nonce,
            number=self.since[place],
            time=entry.time,
        )

    def _may_matter(self, nonce: str) -> bool:
        """Whether something was admitted with the ticket, or may still be: it was not bound too long ago."""
        if nonce in self._admitted or self.head is None:
            return True
        return self.head.time - BACKWARDS < self.attempts[nonce].time + LIFETIME


def _unproven(got: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        got,
        expected="the entry by which the ledger names the checkpoint that it was read from",
        next_step="read the whole ledger: guardrail ledger fetch, then guardrail ledger verify",
    )
