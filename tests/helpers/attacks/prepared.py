"""Ways in which somebody can prepare a directory that we are to work in, each leading elsewhere. Not a test file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass(frozen=True)
class Victim:
    """A file and a directory elsewhere, which must stay as they are."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, content: bytes = b"not yours\n") -> Victim:
        """With ``content`` in the file."""
        (folder / "inner").mkdir(parents=True)
        (folder / "file").write_bytes(content)
        (folder / "inner" / "kept").write_bytes(b"not yours either\n")
        return cls(folder)

    @property
    def file(self) -> Path:
        """A file."""
        return self.folder / "file"

    @property
    def directory(self) -> Path:
        """A directory with a file in it."""
        return self.folder / "inner"

    def state(self) -> dict[str, bytes]:
        """Everything there is, by name."""
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link_to_a_link(path: Path, victim: Victim) -> None:
    (victim.folder / "link").symlink_to(victim.file)
    path.symlink_to(victim.folder / "link")


KINDS: dict[str, Callable[[Path, Victim], object]] = {
    "a link to a file": lambda path, victim: path.symlink_to(victim.file),
    "a relative link": lambda path, victim: path.symlink_to(os.path.relpath(victim.file, path.parent)),
    "a link that leads nowhere": lambda path, victim: path.symlink_to(victim.folder / "new"),
    "a link to a directory": lambda path, victim: path.symlink_to(victim.directory),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a link to a link": _link_to_a_link,
    "a link to a device without end": lambda path, _: path.symlink_to("/dev/zero"),
    "a link to this process": lambda path, _: path.symlink_to("/proc/self/fd/0"),
    "a named pipe": lambda path, _: os.mkfifo(path),
    "a socket": lambda path, _: _socket(path),
    "a directory": lambda path, _: path.mkdir(),
}
LINKS = tuple(kind for kind in KINDS if "link" in kind)


def put(kind: str, path: Path, victim: Victim) -> None:
    """Replace what is at ``path``."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path, victim)


@contextmanager
def at_once(seconds: int = 60) -> Iterator[None]:
    """Fails where the block waits: for a pipe that nobody writes to, or on a file without end."""

    def fail(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise AssertionError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
