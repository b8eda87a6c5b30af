"""The server's ledger: every worker appends to one file, and knows what all of them wrote.

An entry is on the disk, and its head exported, before what it says is done; so nothing is in the registry that the
ledger does not know, and what a crash cut off is named by ``gate/app/doctor.py``. Before an entry is written the file
is read to its end under its lock, so a decision is never made on what another worker has already changed. Envelopes
that people handed in lie beside the ledger, by their digests. From time to time an entry says what those before it add
up to, so that who verifies need not read all that was ever asked for; no file but the ledger holds it, so nothing can
come between the two. Not covered: servers on several machines (the lock is the file system's), and what entries mean
(``ledger_state.py``).
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from guardrail import logs
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.ledger.checkpoint import EVERY, LARGEST_CHECKPOINT, Checkpoint
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.evidence.ledger.fast_envelope import Verifier
from guardrail.evidence.ledger.follows import LedgerChain
from guardrail.evidence.ledger.ledger_file import LedgerFile, envelopes, read_head
from guardrail.gate.ledger.ledger_state import LedgerState

STATEMENTS = ".statements"
_logger = logs.logger("guardrail.server")


class Unneeded(Exception):
    """What was to be written is written already."""


@dataclass(frozen=True)
class Draft:
    """What an entry will say; number, digest of the one before and time are the journal's.

    ``said`` is an envelope to keep beside the ledger before the entry about it is written; empty where there is none.
    """

    kind: EntryKind
    fields: dict[str, Any]
    said: bytes = b""


def draft(kind: EntryKind, *, said: bytes = b"", **fields: Any) -> Draft:
    """A draft of an entry; one about an envelope names its digest."""
    return Draft(kind, fields | ({"statement": sha256(said)} if said else {}), said)


class Journal:
    """The ledger at ``path``, whose head is exported to ``head_path``.

    Raises:
        EvidenceInvalid: on construction, where the ledger does not verify or does not reach its exported head.
    """

    def __init__(
        self,
        path: Path,
        head_path: Path,
        key: PrivateKey,
        keys: Sequence[PublicKey],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        every: int = EVERY,
    ) -> None:
        self._file, self._key, self._clock = LedgerFile(path, head_path), key, clock
        self._statements = path.with_name(path.name + STATEMENTS)
        self._keys = tuple(keys)
        self._verifier = Verifier(self._keys, signed_ledger.LEDGER_TYPE)
        self._mutex = threading.RLock()
        self._state, self._chain, self._offset, self._unexported = LedgerState(), LedgerChain(None), 0, False
        self._starts, self._every, self._next_try = array("Q"), every, 0
        with self._file.locked() if path.exists() else nullcontext():  # nobody appends between ledger and head
            self._read_on()
            self._require_exported()
        self._file.recover(self._statements)

    def state(self) -> LedgerState:
        """What is recorded now, by whichever worker."""
        with self._mutex:
            self._catch_up()
            return self._state

    def head(self) -> Head | None:
        """The last entry."""
        with self._mutex:
            self._catch_up()
            return self._chain.head

    def end(self) -> Head:
        """The last entry of a ledger that has one.

        Raises:
            EvidenceInvalid: it has none.
        """
        head = self.head()
        if head is None:
            raise EvidenceInvalid("the ledger is empty", expected="an entry")
        return head

    def append(self, decide: Callable[[LedgerState], Draft]) -> Head:
        """Write the entry that ``decide`` drafts on what is recorded at this very moment; what it raises is raised.

        ``Unneeded`` writes nothing. Returns the last entry: the new one, or whichever was.

        Raises:
            EvidenceInvalid: the ledger was touched, or the clock went back.
            ServiceUnavailable: the disk refuses.
        """

        def make(head: Head | None) -> Entry:
            self._read_on()
            drafted = decide(self._state)
            if drafted.said:
                self._write(drafted.said)
            return signed_ledger.next_entry(head, time=self._clock(), kind=drafted.kind, **drafted.fields)

        with self._mutex:
            try:
                head = self._file.append(make, self._key)
            except Unneeded:
                return self.end()
            self._read_on()
            self._add_checkpoint()
            return head

    def checkpoint(self) -> Checkpoint | None:
        """The last one that the ledger names; None before the first."""
        with self._mutex:
            self._catch_up()
            latest = self._state.sums.latest
            return latest.checkpoint if latest else None

    def statement(self, digest: str) -> bytes:
        """An envelope that was kept.

        Raises:
            InvalidInput: there is none.
            EvidenceInvalid: it was changed.
        """
        try:
            with self._place(digest).open("rb") as stream:
                data = stream.read(LARGEST + 1)
        except OSError as error:
            raise InvalidInput(f"no statement {digest} was handed in") from error
        if sha256(data) != digest:
            raise EvidenceInvalid(f"the statement {digest} was changed", expected="the bytes that were handed in")
        return data

    def votes(self, evidence: str) -> list[bytes]:
        """Every approval and rejection about this evidence."""
        return [self.statement(digest) for digest in self.state().votes.get(evidence, [])]

    def page(self, after: int, most: int) -> list[bytes]:
        """The envelopes of at most so many entries, from the one after ``after``."""
        with self._mutex:
            self._catch_up()
            ends = [*self._starts[after : after + most + 1], self._offset][: most + 1]
        if len(ends) < 2:  # whoever asks for the head alone reads nothing
            return []
        with _reading(self._file.path) as stream:
            stream.seek(ends[0])
            return bytes(stream.read(ends[-1] - ends[0])).splitlines()

    def recheck(self) -> int:
        """Verify everything again, from the first entry; returns how many there are.

        Raises:
            EvidenceInvalid: the first thing that is wrong.
        """
        head_path = self._file.head_path
        head = read_head(head_path) if head_path.exists() else None
        whole = envelopes(self._file.path) if self._file.path.exists() else ()
        return signed_ledger.verify(whole, self._keys, head, now=self._clock()).entries

    def unfinished(self) -> bool:
        """Whether a crash cut off the last line and the next entry will finish it: what is there is its beginning."""
        return self._file.cut_off()

    def _require_exported(self) -> None:
        """The ledger reaches the head that was exported; the end may be cut off only where an append was."""
        path, head_path = self._file.path, self._file.head_path
        head = read_head(head_path) if head_path.exists() else None
        reached = self._state.numbers.get(head.digest) == head.number if head else not self._state.numbers
        if not reached and not (head is None and self._file.pending.exists()):
            raise EvidenceInvalid(
                f"the ledger {path} does not reach the head that was exported to {head_path}",
                expected=f"entry {head.number}, {head.digest}" if head else "an exported head beside a ledger",
                next_step="restore both from a backup; do not start without knowing what is missing",
            )

    def _catch_up(self) -> None:
        """Read on; nothing new is acted on before its head is exported, by its writer or, if that was killed, by us."""
        before = self._offset
        self._read_on()
        self._unexported |= self._offset != before and self._file.pending.exists()
        if self._unexported:  # asked again until it succeeds: what is known here is acted on
            self._file.recover()
            self._unexported = False

    def _read_on(self) -> None:
        """Follow the file to its end; a line that is still being written is left for the next time."""
        if not self._file.path.exists():
            return
        with _reading(self._file.path) as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._take(line[:-1])
                self._starts.append(self._offset)
                self._offset += len(line)

    def _take(self, envelope: bytes) -> None:
        entry, digest = signed_ledger.read_entry(envelope, self._verifier), sha256(envelope)
        self._state.take(entry, self._chain.follow(entry, digest))

    def _add_checkpoint(self) -> None:
        """Say what all entries add up to, where it is time to; the entry that was asked for is written already, so
        whatever stands in the way now is tried again later."""
        if not self._due():
            return

        def make(head: Head | None) -> Entry:
            self._read_on()
            if not self._due():  # another worker was faster
                raise Unneeded
            data = canonical(self._state.sums.checkpoint())
            if len(data) > LARGEST_CHECKPOINT:
                raise InvalidInput(f"a checkpoint would have {len(data)} bytes", expected=f"{LARGEST_CHECKPOINT}")
            return signed_ledger.next_entry(head, time=self._clock(), kind="checkpoint", subject=sha256(data))

        try:
            self._file.append(make, self._key)
            self._read_on()
        except Unneeded:
            return
        except GuardrailError as error:
            self._next_try = self._state.sums.number + self._every
            _logger.warning("no checkpoint was written: %s", error.message())

    def _due(self) -> bool:
        """A checkpoint costs what it keeps: one comes after so many entries, and as many as the last one kept."""
        latest, number = self._state.sums.latest, self._state.sums.number
        kept = len(latest.checkpoint.entries) + len(latest.checkpoint.attempts) if latest else 0
        return number >= self._next_try and number - (latest.number if latest else 0) >= max(self._every, kept)

    def _write(self, envelope: bytes) -> None:
        """Store an envelope; only for whoever holds the ledger's lock."""
        place = self._place(sha256(envelope))
        if not place.exists():
            write_atomically(place, envelope)

    def _place(self, digest: str) -> Path:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise InvalidInput(f"{digest[:80]!r} is no digest", expected="64 hexadecimal digits")
        return self._statements / f"{digest}.dsse.json"


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ServiceUnavailable(f"cannot read the ledger {path}: {error.strerror}") from error
