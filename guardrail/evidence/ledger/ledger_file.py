"""A ledger in a file: one envelope a line, flushed to disk before anyone is told; its head in a file of its own.

    LEDGER            an envelope (JSON, ASCII) and a newline for each entry, in order
    LEDGER.pending    the line that is being written; gone once it is written and its head exported
    HEAD              the head (canonical JSON), best on another machine's disk

A line that was cut off by a crash is finished from ``LEDGER.pending`` by the next append, never dropped; without that
file it is refused. Readers and writers lock the ledger file, so several processes may share it (not over NFS).
Not covered: what the chain proves (``signed_ledger.py``). Readers need only the ledger file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from guardrail import nofollow
from guardrail.atomic import left_behind, write_atomically
from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.ledger.entries import Entry, Head
from guardrail.evidence.ledger.signed_ledger import LARGEST_ENTRY, advance, append

LARGEST_HEAD = 4096


@dataclass(frozen=True)
class _End:
    """How the file ends: the last two whole lines (without their newlines), and what follows the last newline."""

    before: bytes | None
    last: bytes | None
    torn: bytes


@dataclass(frozen=True)
class LedgerFile:
    """A ledger at ``path`` whose head is exported to ``head_path``."""

    path: Path
    head_path: Path

    @property
    def pending(self) -> Path:
        """Where the line lies while it is being written."""
        return self.path.with_name(self.path.name + ".pending")

    def append(self, make: Callable[[Head | None], Entry], key: PrivateKey) -> Head:
        """Sign the entry that ``make`` gives for the current head, and write it; returns the new head.

        When this returns, entry and head are on the disk. When the process dies before, the entry is there or will be
        finished by the next append, or was never there.

        Raises:
            EvidenceInvalid: the file does not end where the exported head says, or the entry does not follow.
            ServiceUnavailable: the disk is full or otherwise refuses.
        """
        with self.locked() as stream:
            head = self._recovered(stream)
            data = append(head, make(head), key)
            after = advance(head, data)
            write_atomically(self.pending, data + b"\n")
            self._finish(stream, data + b"\n", after)
            return after

    def cut_off(self) -> bool:
        """Whether the file ends inside the very line that is pending: a crash came while it was written."""
        with self.locked() as stream:
            torn = _end(stream).torn
            return bool(torn) and (nofollow.read(self.pending) or b"").startswith(torn)

    def recover(self, *directories: Path) -> None:
        """Finish a line that a crash cut off, export its head, and remove temporary files, also of these directories.

        Raises:
            EvidenceInvalid: what is pending is not what follows.
            ServiceUnavailable: the disk refuses.
        """
        if not self.path.exists():
            return
        with self.locked() as stream:
            if self.pending.exists():
                self._recovered(stream)
            found = [path for file in (self.pending, self.head_path) for path in left_behind(file.parent, file.name)]
            found += [path for directory in directories for path in left_behind(directory)]
            for path in found:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[IO[bytes]]:
        """The ledger, opened to append; nobody else writes meanwhile, neither to it nor to what lies beside it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # a second name is the administrator's: refusing it would let whoever makes one stop the server
            with nofollow.open_to_append(self.path, single=False) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield stream
        except OSError as error:
            raise ServiceUnavailable(f"cannot write the ledger {self.path}: {error.strerror}") from error

    def _recovered(self, stream: IO[bytes]) -> Head | None:
        """The head, after a line that a crash left behind has been finished."""
        exported = nofollow.read(self.head_path, LARGEST_HEAD)
        head = None if exported is None else _parsed(exported, self.head_path)
        end = _end(stream)
        line = nofollow.read(self.pending)
        if line is None:
            if end.torn:
                raise _torn(self.path, len(end.torn))
            self._require(end.last, head)
            return head
        if head is not None and sha256(line[:-1]) == head.digest:  # all was written but for removing this file
            self._require(end.last, head)
            self.pending.unlink()
            return head
        return self._resume(stream, line, head, end)

    def _resume(self, stream: IO[bytes], line: bytes, head: Head | None, end: _End) -> Head:
        after = advance(head, line[:-1])
        whole = end.last == line[:-1] and not end.torn
        self._require(end.before if whole else end.last, head)
        written = line if whole else end.torn
        if not (line.startswith(written) and line.endswith(b"\n")):
            raise _torn(self.path, len(end.torn))
        self._finish(stream, line[len(written) :], after)
        return after

    def _require(self, last: bytes | None, head: Head | None) -> None:
        """Refuse to go on where the file does not end as was exported."""
        if (None if last is None else sha256(last)) != (head.digest if head else None):
            raise EvidenceInvalid(
                f"the ledger {self.path} does not end with the entry that {self.head_path} names",
                expected=f"entry {head.number}" if head else "no entry yet",
                next_step=f"guardrail ledger verify {self.path} --server-key SERVER.pub --head {self.head_path}, "
                "and compare with a copy",
            )

    def _finish(self, stream: IO[bytes], rest: bytes, head: Head) -> None:
        stream.write(rest)
        stream.flush()
        os.fsync(stream.fileno())
        write_atomically(self.head_path, canonical(head))
        self.pending.unlink(missing_ok=True)


def envelopes(path: Path) -> Iterator[bytes]:
    """The envelopes that a ledger file holds now, in order. A writer is waited for, and may go on while we read.

    Raises:
        InvalidInput: the file cannot be read.
        EvidenceInvalid: a line is too long, or the last one is cut off.
    """
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            left = os.fstat(stream.fileno()).st_size
            fcntl.flock(stream, fcntl.LOCK_UN)
            while left > 0:
                line = stream.readline(min(left, LARGEST_ENTRY + 2))
                if not line.endswith(b"\n"):
                    raise _torn(path, len(line))
                left -= len(line)
                yield line[:-1]
    except OSError as error:
        raise InvalidInput(f"cannot read the ledger {path}: {error.strerror}") from error


def read_head(path: Path) -> Head:
    """An exported head.

    Raises:
        InvalidInput: the file cannot be read or holds something else.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_HEAD)
    except OSError as error:
        raise InvalidInput(f"cannot read the head {path}: {error.strerror}") from error
    return _parsed(data, path)


def _parsed(data: bytes, path: Path) -> Head:
    try:
        return Head.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(
            f"{path} is not the exported head of a ledger", expected="digest, number and time"
        ) from error


def _end(stream: IO[bytes]) -> _End:
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - 3 * (LARGEST_ENTRY + 1))
    stream.seek(start)
    *lines, torn = stream.read().split(b"\n")
    stream.seek(0, os.SEEK_END)
    lines = lines[1:] if start else lines  # the first may have been cut by us
    return _End(lines[-2] if len(lines) > 1 else None, lines[-1] if lines else None, torn)


def _torn(path: Path, size: int) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the ledger {path} ends in the middle of a line, or a line is too long ({size} bytes)",
        expected="whole lines",
        next_step=f"the next append finishes it if {path.name}.pending is there; else compare with a copy",
    )
