"""A fair queue over all threads and processes of this machine: one at a time, in the order of arrival.

A ticket lock (Mellor-Crummey and Scott, "Algorithms for scalable synchronization", 1991) over the bytes of one empty
file: whoever comes locks the byte after the last that is locked; it is their turn when none before it is. The locks are
Linux's open file description locks, so nothing is stored, and the kernel frees the place of whoever dies, at once.
Not covered: several machines.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guardrail import nofollow
from guardrail.errors import ServiceUnavailable

FLOCK = "hhqqi4x"
"""The kernel's ``struct flock``: type, whence, start, length, process (which these locks have none of)."""
WIDTH = 1 << 31
"""So many bytes each queue has; its first is locked by whoever comes, while they look for their place."""
SHORTEST, LONGEST = 0.001, 0.02
"""Seconds between two looks at whether it is our turn: often at first, then less so."""
PATIENCE = 60.0


class Turnstile:
    """A queue among those whose file lies at ``path``.

    Args:
        path: the file, which is made when it is first needed, and stays empty.
        which: the number of the queue; queues of other numbers in the same file have nothing to do with it.
        patience: for so many seconds at most somebody waits.
        room: so many of this process wait or have their turn; whoever comes then is sent away at once. None: all.
    """

    def __init__(self, path: Path, which: int = 0, patience: float = PATIENCE, room: int | None = None) -> None:
        self._path, self._start, self._patience = path, which * WIDTH, patience
        self._room = threading.BoundedSemaphore(room) if room else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, which lasts as long as the block.

        Raises:
            ServiceUnavailable: too many wait already, those before take too long, or the disk refuses.
        """
        with self._place(), opened(self._path) as descriptor:
            place = self._taken(descriptor)
            first = self._start + 1
            _wait(self._patience, lambda: place == first or not _locked(descriptor, first, place - first))
            yield

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._room is not None and not self._room.acquire(blocking=False):
            raise _busy("too many wait already")
        try:
            yield
        finally:
            if self._room is not None:
                self._room.release()

    def _taken(self, descriptor: int) -> int:
        """The byte that is ours: locked, and behind all that are."""
        try:
            _lock(descriptor, self._start, fcntl.F_OFD_SETLKW)
            place = self._start + 1
            while found := _locked(descriptor, place, self._start + WIDTH - place):
                place = found + 1
            _lock(descriptor, place, fcntl.F_OFD_SETLK)
            _lock(descriptor, self._start, fcntl.F_OFD_SETLK, fcntl.F_UNLCK)
        except OSError as error:
            raise ServiceUnavailable(f"cannot wait in {self._path}: {error.strerror}") from error
        return place


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The file of queues, opened for one turn alone: closing it gives up the place.

    Raises:
        ServiceUnavailable: the disk refuses.
    """
    try:
        stream = nofollow.open_to_lock(path)
    except OSError as error:
        raise ServiceUnavailable(f"cannot open {path}: {error.strerror}") from error
    with stream:
        yield stream.fileno()


def _lock(descriptor: int, byte: int, how: int, kind: int = fcntl.F_WRLCK) -> None:
    fcntl.fcntl(descriptor, how, struct.pack(FLOCK, kind, os.SEEK_SET, byte, 1, 0))


def _locked(descriptor: int, start: int, length: int) -> int:
    """One of these bytes that somebody else has locked; 0 where nobody has."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, found, *_ = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(found)


def _wait(patience: float, ready: Callable[[], bool]) -> None:
    until, pause = time.monotonic() + patience, SHORTEST
    while not ready():
        if time.monotonic() >= until:
            raise _busy(f"those before have not finished within {patience:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def _busy(why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"the server is busy: {why}", next_step="try again")
