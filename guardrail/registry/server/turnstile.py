"""A fair queue over all threads and processes of this machine: one at a time, in the order of arrival.

A ticket lock (Mellor-Crummey and Scott, "Algorithms for scalable synchronization", 1991) over one file: whoever comes
draws the next number and locks the byte of that number; it is their turn when no byte of a lower number is locked. The
locks are Linux's open file description locks, so the kernel frees the place of whoever dies, at once.
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

from guardrail.errors import ServiceUnavailable

NUMBER = struct.Struct("=q")
FLOCK = "hhqqi4x"
"""The kernel's ``struct flock``: type, whence, start, length, process (which these locks have none of)."""
DRAWING, FIRST = 8, 16
"""The byte that whoever draws a number locks, and the byte of number 0; the next number lies in the first eight."""
SHORTEST, LONGEST = 0.001, 0.02
"""Seconds between two looks at whether it is our turn: often at first, then less so."""
PATIENCE = 60.0


class Turnstile:
    """A queue whose file lies at ``path``.

    Args:
        path: the file; it is made, and stays.
        patience: for so many seconds at most somebody waits.
        room: so many of this process wait or have their turn; whoever comes then is sent away at once. None: all.
    """

    def __init__(self, path: Path, patience: float = PATIENCE, room: int | None = None) -> None:
        self._path, self._patience = path, patience
        self._room = threading.BoundedSemaphore(room) if room else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, which lasts as long as the block.

        Raises:
            ServiceUnavailable: too many wait already, those before take too long, or the disk refuses.
        """
        with self._place(), self._opened() as descriptor:
            number = _drawn(descriptor)
            _wait(self._patience, lambda: not _is_locked(descriptor, FIRST, number))
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

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, opened for this turn alone: closing it gives up the place."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ServiceUnavailable(f"cannot open {self._path}: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _drawn(descriptor: int) -> int:
    """The next number, whose byte is locked before anybody can draw a later one."""
    try:
        _lock(descriptor, DRAWING, fcntl.F_OFD_SETLKW)
        number = NUMBER.unpack(os.pread(descriptor, NUMBER.size, 0) or bytes(NUMBER.size))[0]
        os.pwrite(descriptor, NUMBER.pack(number + 1), 0)
        _lock(descriptor, FIRST + number, fcntl.F_OFD_SETLK)
        _lock(descriptor, DRAWING, fcntl.F_OFD_SETLK, fcntl.F_UNLCK)
    except (OSError, struct.error) as error:
        raise ServiceUnavailable(f"cannot wait in a queue: {error}") from error
    return int(number)


def _lock(descriptor: int, byte: int, how: int, kind: int = fcntl.F_WRLCK) -> None:
    fcntl.fcntl(descriptor, how, struct.pack(FLOCK, kind, os.SEEK_SET, byte, 1, 0))


def _is_locked(descriptor: int, start: int, length: int) -> bool:
    """Whether somebody else has locked one of these bytes; of none (``length`` 0 would mean all) nobody has."""
    if length == 0:
        return False
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
    return bool(kind != fcntl.F_UNLCK)


def _wait(patience: float, ready: Callable[[], bool]) -> None:
    until, pause = time.monotonic() + patience, SHORTEST
    while not ready():
        if time.monotonic() >= until:
            raise _busy(f"those before have not finished within {patience:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def _busy(why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"the server is busy: {why}", next_step="try again")
