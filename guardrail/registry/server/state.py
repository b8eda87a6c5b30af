"""What the ledger's entries add up to: tickets and what became of them, votes, revocations, where each alias stands.

Pure: entries go in, in order; questions are answered. The ledger is the only memory, so there is nothing to disagree
with it. Not covered: reading and writing it (``journal.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest
from guardrail.evidence.ledger_types import Entry, Head
from guardrail.evidence.trust import Trust
from guardrail.registry.server.open_tickets import OpenTickets

Place = tuple[str, str]
"""A guarded model's name and one of its protected aliases."""


@dataclass(frozen=True)
class Issued:
    """A ticket that was issued."""

    model: str
    alias: str
    issued: datetime
    head: Head


@dataclass(frozen=True)
class Bound:
    """The candidate that a ticket was bound to, the entry that says so, and the how-manieth attempt it is."""

    manifest: str
    head: Head
    attempt: int


@dataclass(frozen=True)
class Admitted:
    """Evidence that was admitted. ``note`` says where its files lie and which logged model it was."""

    model: str
    alias: str
    evidence: str
    manifest: str
    nonce: str
    note: str
    time: datetime


@dataclass
class State:
    """Everything that was ever recorded, as far as it was read."""

    tickets: dict[str, Issued] = field(default_factory=dict)
    open: OpenTickets = field(default_factory=OpenTickets)
    bound: dict[str, Bound] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    """Nonce to the digest of the evidence that spent it, admitted or denied."""
    admitted: dict[str, Admitted] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    votes: dict[str, list[str]] = field(default_factory=dict)
    """Evidence to the digests of the approvals and rejections about it."""
    rejected: set[str] = field(default_factory=set)
    promoted: set[str] = field(default_factory=set)
    """Evidence to which an alias was ever moved."""
    held: dict[str, datetime] = field(default_factory=dict)
    """Evidence to when all of it was last found to hold: when it was admitted, agreed to or promoted."""
    revoked: dict[str, str] = field(default_factory=dict)
    """Manifest to why."""
    stands: dict[Place, str] = field(default_factory=dict)
    """Where an alias was last moved to."""
    highest: dict[Place, int] = field(default_factory=dict)
    """The latest version that an alias ever pointed at."""
    moved_by: dict[Place, str] = field(default_factory=dict)
    """The rollback that last moved an alias; absent where a promotion did."""
    moved_at: dict[Place, int] = field(default_factory=dict)
    """The number of the entry that last moved an alias."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Digest of an entry to its number."""
    attempts: dict[Place, int] = field(default_factory=dict)
    """Adapters that were bound since the last promotion."""
    trust_version: int = 0
    trust: str = ""
    """The digest of what the trust file of that version says."""
    latest: datetime | None = None

    def take(self, entry: Entry, digest: str) -> None:
        """The next entry."""
        place = (entry.model, entry.alias)
        self.numbers[digest] = entry.number
        self.open.take(entry)
        self.latest = max(entry.time, self.latest) if self.latest else entry.time
        head = Head(digest=digest, number=entry.number, time=self.latest)
        match entry.kind:
            case "proposal":
                self._propose(entry, head)
            case "decision":
                self._admit(entry)
            case "denial":
                self._deny(entry)
            case "approval" | "rejection":
                self._vote(entry)
            case "promotion":
                self._promote(entry)
            case "rollback":
                self.stands[place] = entry.version
                self.moved_at[place] = entry.number
                self.moved_by[place] = entry.statement or ""
            case "revocation":
                self.revoked[entry.subject] = entry.note
            case "trust":
                if int(entry.version) > self.trust_version:
                    self.trust_version, self.trust = int(entry.version), entry.subject

    def waiting(self) -> list[Admitted]:
        """Admitted evidence that no promotion followed yet and nobody rejected, oldest first."""
        return [a for e, a in list(self.admitted.items()) if e not in self.promoted and e not in self.rejected]

    def require_the_same(self, trust: Trust) -> None:
        """The trust file is the one that was in force, or of another version.

        Raises:
            EvidenceInvalid: it is another one of that version.
        """
        if trust.version == self.trust_version and self.trust not in ("", digest(trust)):
            raise another_of_this_version(trust)

    def _propose(self, entry: Entry, head: Head) -> None:
        place = (entry.model, entry.alias)
        if not entry.subject:
            self.tickets[entry.nonce] = Issued(*place, entry.time, head)
        elif entry.nonce not in self.bound:
            self.attempts[place] = self.attempts.get(place, 0) + 1
            self.bound[entry.nonce] = Bound(entry.subject, head, self.attempts[place])

    def _admit(self, entry: Entry) -> None:
        if entry.evidence is None:
            return
        self._close(entry)
        found = Admitted(entry.model, entry.alias, entry.evidence, entry.subject, entry.nonce, entry.note, entry.time)
        self.admitted.setdefault(entry.evidence, found)
        self.held[entry.evidence] = entry.time

    def _deny(self, entry: Entry) -> None:
        self._close(entry)
        if entry.evidence:
            self.denied.add(entry.evidence)

    def _close(self, entry: Entry) -> None:
        if entry.nonce and entry.evidence:
            self.closed.setdefault(entry.nonce, entry.evidence)

    def _vote(self, entry: Entry) -> None:
        if entry.evidence is None or entry.statement is None:
            return
        self.votes.setdefault(entry.evidence, []).append(entry.statement)
        if entry.kind == "rejection":
            self.rejected.add(entry.evidence)
        else:
            self.held[entry.evidence] = entry.time

    def _promote(self, entry: Entry) -> None:
        place = (entry.model, entry.alias)
        self.stands[place] = entry.version
        self.moved_at[place] = entry.number
        self.highest[place] = max(self.highest.get(place, 0), int(entry.version))
        self.moved_by.pop(place, None)
        self.attempts[place] = 0
        if entry.evidence:
            self.promoted.add(entry.evidence)
            self.held[entry.evidence] = entry.time


def another_of_this_version(trust: Trust) -> EvidenceInvalid:
    """The refusal of a trust file where a different one of its version was in force: the roots signed two."""
    return EvidenceInvalid(
        f"another trust file of version {trust.version} was in force", expected=f"version {trust.version + 1}",
        next_step="raise 'version' and have the roots sign again, or restore the file that was there",
    )  # fmt: skip
