"""What the ledger's entries add up to: tickets and what became of them, votes, revocations, where each alias stands.

Pure: entries go in, in order; questions are answered. The ledger is the only memory, so there is nothing to disagree
with it; and attempts are counted by what auditors count them by (``evidence/ledger/sums.py``).
Not covered: reading and writing it (``journal.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest
from guardrail.evidence.ledger.entries import Entry, Head
from guardrail.evidence.ledger.sums import Sums
from guardrail.evidence.trust.trust_file import Trust
from guardrail.gate.ledger.open_tickets import OpenTickets

GuardedAlias = tuple[str, str]
"""A guarded model's name and one of its protected aliases."""


@dataclass(frozen=True)
class Issued:
    """A ticket that was issued."""

    model: str
    alias: str
    issued: datetime
    head: Head


@dataclass(frozen=True)
class BoundCandidate:
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


@dataclass(frozen=True)
class Position:
    """Where an alias was moved: the version's number, what that version holds, and the entry that moved it.

    ``evidence`` is empty where a rollback of an older ledger did not name it and it cannot be told from the entries
    before; ``manifest`` is always there.
    """

    version: str
    evidence: str
    manifest: str
    entry: int

    def is_at(self, version: str, found: Admitted) -> bool:
        """Whether it is this version, holding this evidence: the number alone proves nothing."""
        return self.version == version and self.holds(found)

    def holds(self, found: Admitted) -> bool:
        """Whether this is the evidence that the alias was moved to."""
        return self.evidence in ("", found.evidence) and self.manifest in ("", found.manifest)


@dataclass
class LedgerState:
    """Everything that was ever recorded, as far as it was read."""

    sums: Sums = field(default_factory=Sums)
    """What whoever verifies adds up."""
    tickets: dict[str, Issued] = field(default_factory=dict)
    open: OpenTickets = field(default_factory=OpenTickets)
    bound: dict[str, BoundCandidate] = field(default_factory=dict)
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
    revoked_at: dict[str, datetime] = field(default_factory=dict)
    """Manifest to when."""
    sealed: dict[tuple[str, str], str] = field(default_factory=dict)
    """Model and place of sealed files (``sealed/DIGEST``) to the evidence that was admitted with them."""
    completed: dict[str, int] = field(default_factory=dict)
    """Evidence to the entry after which nothing more was asked of it: its admission, or its last approval."""
    newest: dict[GuardedAlias, int] = field(default_factory=dict)
    """The latest of those entries among the evidence that an alias ever moved to."""
    stands: dict[GuardedAlias, Position] = field(default_factory=dict)
    """Where an alias was last moved to."""
    before: dict[GuardedAlias, Position] = field(default_factory=dict)
    """Where it stood until then."""
    named: dict[tuple[str, str], Position] = field(default_factory=dict)
    """Model and version number to what an alias was moved to under that number."""
    last_number: dict[str, int] = field(default_factory=dict)
    """Model to the highest version number that an entry names."""
    highest: dict[GuardedAlias, int] = field(default_factory=dict)
    """The latest version that an alias ever pointed at."""
    moved_by: dict[GuardedAlias, str] = field(default_factory=dict)
    """The rollback that last moved an alias; absent where a promotion did."""
    moved_at: dict[GuardedAlias, int] = field(default_factory=dict)
    """The number of the entry that last moved an alias."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Digest of an entry to its number."""
    trust_version: int = 0
    trust: str = ""
    """The digest of what the trust file of that version says."""
    trust_statement: str = ""
    """The digest of its envelope, which lies beside the ledger; empty where an older ledger did not keep it."""

    @property
    def attempts(self) -> dict[GuardedAlias, int]:
        """Adapters that were bound since the last promotion."""
        return self.sums.since

    def take(self, entry: Entry, head: Head) -> None:
        """The next entry; ``head`` is the ledger's after it.

        Raises:
            EvidenceInvalid: it is a checkpoint that does not say what the entries before it add up to.
        """
        place = (entry.model, entry.alias)
        self.sums.take(entry, head)
        self.numbers[head.digest] = entry.number
        self.open.take(entry)
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
                self._move(entry)
                self.moved_by[place] = entry.statement or ""
            case "revocation":
                self.revoked.setdefault(entry.subject, entry.note)
                self.revoked_at.setdefault(entry.subject, entry.time)
            case "trust":
                self._trust(entry)

    def waiting(self) -> list[Admitted]:
        """Admitted evidence that no promotion followed yet and nobody rejected, oldest first."""
        return [a for e, a in list(self.admitted.items()) if e not in self.promoted and e not in self.rejected]

    def require_in_force(self, trust: Trust) -> None:
        """The trust file is the latest that was in force, or a later one.

        Raises:
            EvidenceInvalid: it is an older one, or another one of that version.
        """
        if not trust.version >= self.trust_version:
            raise older_version(trust.version, self.trust_version)
        if trust.version == self.trust_version and self.trust not in ("", digest(trust)):
            raise another_of_this_version(trust)

    def may_name(self, model: str, version: str, found: Admitted) -> bool:
        """Whether this number is free for this evidence: no entry gave it to other evidence."""
        given = self.named.get((model, version))
        return given is None or given.holds(found)

    def overtaken(self, found: Admitted) -> bool:
        """Whether the alias has been at this evidence and left it, or moved to evidence that was complete later.

        Asked of the ledger, because version numbers start again where rows are lost.
        """
        place = (found.model, found.alias)
        stands = self.stands.get(place)
        if stands is not None and stands.holds(found):
            return False
        return found.evidence in self.promoted or self.completed[found.evidence] < self.newest.get(place, 0)

    def _propose(self, entry: Entry, head: Head) -> None:
        place = (entry.model, entry.alias)
        if not entry.subject:
            self.tickets[entry.nonce] = Issued(*place, entry.time, head)
        elif entry.nonce not in self.bound and (counted := self.sums.attempts.get(entry.nonce)) is not None:
            self.bound[entry.nonce] = BoundCandidate(entry.subject, head, counted.number)

    def _admit(self, entry: Entry) -> None:
        if entry.evidence is None:
            return
        self._close(entry)
        found = Admitted(entry.model, entry.alias, entry.evidence, entry.subject, entry.nonce, entry.note, entry.time)
        self.admitted.setdefault(entry.evidence, found)
        self.sealed.setdefault((entry.model, entry.note.partition(" ")[0]), entry.evidence)
        self.held[entry.evidence] = entry.time
        self.completed.setdefault(entry.evidence, entry.number)

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
            self.completed[entry.evidence] = entry.number

    def _promote(self, entry: Entry) -> None:
        place = (entry.model, entry.alias)
        self._move(entry)
        self.highest[place] = max(self.highest.get(place, 0), int(entry.version))
        self.moved_by.pop(place, None)
        if entry.evidence:
            self.promoted.add(entry.evidence)
            self.held[entry.evidence] = entry.time
            self.newest[place] = max(self.newest.get(place, 0), self.completed.get(entry.evidence, 0))

    def _move(self, entry: Entry) -> None:
        place, named = (entry.model, entry.alias), (entry.model, entry.version)
        evidence = entry.evidence or self._evidence_of(entry)
        if (stood := self.stands.get(place)) is not None:
            self.before[place] = stood
        self.stands[place] = self.named[named] = Position(entry.version, evidence, entry.subject, entry.number)
        self.moved_at[place] = entry.number
        self.last_number[entry.model] = max(self.last_number.get(entry.model, 0), int(entry.version))

    def _evidence_of(self, entry: Entry) -> str:
        """What a rollback of an older ledger went back to: by the number, else the only admission of its adapter."""
        given = self.named.get((entry.model, entry.version))
        if given is not None and given.manifest == entry.subject:
            return given.evidence
        about = (entry.model, entry.alias, entry.subject)
        found = [a.evidence for a in self.admitted.values() if (a.model, a.alias, a.manifest) == about]
        return found[0] if len(found) == 1 else ""

    def _trust(self, entry: Entry) -> None:
        if int(entry.version) > self.trust_version:
            self.trust_version, self.trust = int(entry.version), entry.subject
            self.trust_statement = entry.statement or ""
        elif (int(entry.version), entry.subject) == (self.trust_version, self.trust):
            self.trust_statement = entry.statement or self.trust_statement


def another_of_this_version(trust: Trust) -> EvidenceInvalid:
    """The refusal of a trust file where a different one of its version was in force: the roots signed two."""
    return EvidenceInvalid(
        f"another trust file of version {trust.version} was in force",
        expected=f"version {trust.version + 1}",
        next_step="raise 'version' and have the roots sign again, or restore the file that was there",
    )


def older_version(given: int, known: int) -> EvidenceInvalid:
    """The refusal of a trust file that is older than one that was in force, whatever a database says."""
    return EvidenceInvalid(
        f"the trust file has version {given}",
        expected=f"version {known} or later: the ledger says that one was in force",
        next_step="an older trust file must never come back; ask whoever keeps it",
    )
