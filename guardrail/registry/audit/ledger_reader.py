"""What a gated server's ledger says happened: read over HTTP, checked, and asked.

The server signs its ledger, and the chain shows every change but a missing end; for that, give the head that was
exported. Reading starts at the last checkpoint that the ledger names (``evidence/ledger/checkpoint.py``), because
verifying must not become slow by what others ask for; with an exported head, or for a model's whole history, it starts
at the first entry, and every checkpoint on the way is compared with what the entries before it add up to.
Not covered: what a server never wrote down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.evidence.ledger.entries import Entry, Head
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE, verify
from guardrail.evidence.ledger.sums import Sums
from guardrail.registry.gate.client import GateClient

MOVES = ("promotion", "rollback")
VOTES = ("approval", "rejection")
BEYOND = 10**15 - 1
"""An entry after which there is none: asks for the head alone."""


@dataclass(frozen=True)
class History:
    """What a ledger says. ``head`` is None where there is no entry, or where nothing was ``checked``.

    ``entries`` are all of them, in order, where it is ``whole``; else those that a checkpoint keeps (``sums``).
    """

    entries: tuple[Entry, ...]
    sums: Sums
    head: Head | None
    checked: bool
    whole: bool

    @property
    def length(self) -> int:
        """How many entries the ledger has."""
        return self.sums.number

    def admitted(self, evidence: str) -> Entry | None:
        """The entry by which this evidence was admitted."""
        return next((e for e in self.entries if e.kind == "decision" and e.evidence == evidence), None)

    def votes(self, evidence: str) -> tuple[Entry, ...]:
        """Every approval and rejection of this evidence."""
        return tuple(e for e in self.entries if e.kind in VOTES and e.evidence == evidence)

    def revoked(self, manifest: str) -> Entry | None:
        """The entry by which the adapter of this manifest was revoked."""
        return next((e for e in self.entries if e.kind == "revocation" and e.subject == manifest), None)

    def moved(self, model: str, alias: str) -> Entry | None:
        """The entry that moved this alias last: where it stands."""
        found = (e for e in reversed(self.entries) if e.kind in MOVES and (e.model, e.alias) == (model, alias))
        return next(found, None)

    def revocations(self) -> tuple[Entry, ...]:
        """The first entry about every adapter that was revoked, oldest first."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.kind == "revocation":
                found.setdefault(entry.subject, entry)
        return tuple(found.values())

    def admissions(self, manifest: str) -> tuple[Entry, ...]:
        """Every admission of this adapter, under whatever model and alias."""
        return tuple(e for e in self.entries if e.kind == "decision" and e.evidence and e.subject == manifest)

    def numbers(self, evidence: str) -> tuple[str, ...]:
        """Every version number under which an alias was moved to this evidence, in order."""
        moved = (e.version for e in self.entries if e.kind in MOVES and e.evidence == evidence)
        return tuple(dict.fromkeys(moved))

    def promotions(self, model: str) -> tuple[Entry, ...]:
        """Every promotion of this model."""
        return tuple(e for e in self.entries if e.kind == "promotion" and e.model == model)

    def attempts(self, model: str, alias: str) -> int:
        """How many adapters were ever bound to a ticket for this alias."""
        return self.sums.adapters.get((model, alias), 0)

    def attempt(self, model: str, alias: str, nonce: str, manifest: str) -> int:
        """The how-manieth adapter this one is since the promotion before it; 0 where it was never bound.

        ``nonce`` is that of the ticket that it was bound to.
        """
        found = self.sums.attempts.get(nonce)
        if found is None or (found.model, found.alias, found.manifest) != (model, alias, manifest):
            return 0
        return found.number

    def places(self) -> tuple[tuple[str, str], ...]:
        """Every model and alias that it speaks of, sorted."""
        return tuple(sorted(self.sums.adapters))

    def about(self, model: str) -> tuple[Entry, ...]:
        """What it says of a model; revocations of its adapters and changes of the trust file concern it, too.

        Only of a ``whole`` ledger: a checkpoint keeps neither tickets nor denials.
        """
        adapters = {e.subject for e in self.entries if e.model == model and e.subject}
        return tuple(e for e in self.entries if e.model == model or e.kind == "trust" or _revokes(e, adapters))


@dataclass
class _Taken:
    """Entries that are read while somebody else looks at their envelopes."""

    entries: list[Entry] = field(default_factory=list)

    def along(self, envelopes: Iterable[bytes]) -> Iterator[bytes]:
        for number, data in enumerate(envelopes, start=1):
            yield data
            self.entries.append(_entry(data, number))


def read_history(
    gate: GateClient, keys: Sequence[PublicKey], *, now: datetime, head: Head | None = None, whole: bool = False
) -> History:
    """The ledger, after every signature and the chain were checked: from its last checkpoint, or from its first entry.

    Args:
        gate: the server that is asked.
        keys: whose signatures are accepted.
        now: the reader's clock, aware.
        head: an exported head; without one the server's own word is taken for where its ledger ends. With one the whole
            ledger is read: the head commits to every entry, and so nothing is taken from a checkpoint.
        whole: read from the first entry.

    Raises:
        EvidenceInvalid: the first thing that is wrong with it.
    """
    sums = _start(gate, whole=whole or head is not None)
    started, taken = sums.number, _Taken()
    envelopes = gate.ledger(started)
    checked = verify(envelopes if started else taken.along(envelopes), keys, head or last(gate), now=now, sums=sums)
    return _history(sums, taken if not started else None, checked.head, checked=True)


def _start(gate: GateClient, *, whole: bool) -> Sums:
    """Where reading starts; a checkpoint counts for nothing until the ledger's own entry names it."""
    found = None if whole else gate.checkpoint()
    return Sums() if found is None else Sums.of(found)


def _history(sums: Sums, taken: _Taken | None, head: Head | None, *, checked: bool) -> History:
    entries = tuple(sums.entries if taken is None else taken.entries)
    return History(entries, sums, head, checked=checked, whole=taken is not None)


def last(gate: GateClient) -> Head | None:
    """The head, as the server says."""
    return gate.page(after=BEYOND).head


def unverified_history(gate: GateClient, *, whole: bool = False) -> History:
    """What the server says, WITHOUT looking at any signature.

    Raises:
        EvidenceInvalid: an entry cannot be read, or a checkpoint is not what the entries before it add up to.
    """
    sums = _start(gate, whole=whole)
    started, taken = sums.number, _Taken()
    for number, data in enumerate(gate.ledger(started), start=started + 1):
        entry = _entry(data, number)
        taken.entries.append(entry)
        sums.take(entry, Head(digest=sha256(data), number=number, time=entry.time))
    sums.require_proven()
    return _history(sums, taken if not started else None, None, checked=False)


def handed_in(gate: GateClient, digest: str) -> bytes:
    """The envelope of this digest, which somebody handed in.

    Raises:
        EvidenceInvalid: the server gives other bytes, or none.
    """
    try:
        data = gate.statement(digest)
    except InvalidInput as error:
        raise EvidenceInvalid(
            f"the server does not give the statement {digest}: {error.got}",
            expected="what its ledger names",
            next_step="guardrail registry doctor",
        ) from error
    if sha256(data) != digest:
        raise EvidenceInvalid(f"the server gave another envelope than the statement {digest}", expected="its bytes")
    return data


def ledger_lines(envelopes: Iterable[bytes]) -> bytes:
    """A ledger as ``guardrail ledger verify`` reads it: an envelope a line.

    Raises:
        EvidenceInvalid: an envelope holds a line break, so it is none of ours.
    """
    lines = list(envelopes)
    for number, line in enumerate(lines, start=1):
        if b"\n" in line or not line:
            raise EvidenceInvalid(f"entry {number} is no envelope on one line", expected="exactly the bytes we write")
    return b"".join(line + b"\n" for line in lines)


def _revokes(entry: Entry, adapters: set[str]) -> bool:
    return entry.kind == "revocation" and entry.subject in adapters


def _entry(data: bytes, number: int) -> Entry:
    try:
        return Entry.model_validate_json(unverified_payload(data, payload_type=LEDGER_TYPE))
    except ValidationError as error:
        raise EvidenceInvalid(f"entry {number} is not one of ours: {error.errors()[0]['msg']}") from error
