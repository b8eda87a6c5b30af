"""Writes a file so that a reader sees the old bytes or all of the new ones, even across a crash.

What is replaced is a regular file or nothing: a link would be lost, and renaming over ``/dev/null`` breaks a machine.
No file is ever opened to be emptied, so a second name (hard link) of an old file keeps its bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.nofollow import odd_kind


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk, rename it, flush the directory.

    Raises:
        InvalidInput: ``path`` is a link, a directory or no file at all; it stays as it is.
        ServiceUnavailable: the disk is full, read-only or otherwise refuses; nothing is left behind.
    """
    with _replacing(path) as stream:
        stream.write(data)


def write_by(path: Path, write: Callable[[Path], object]) -> None:
    """Like :func:`write_atomically`, for a library that writes files by name: ``write`` is given the temporary one.

    Raises:
        InvalidInput, ServiceUnavailable: as :func:`write_atomically`; and whatever ``write`` raises but an OSError.
    """
    with _replacing(path) as stream:
        write(Path(stream.name))


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which becomes ``path`` when the block ends and is removed where that fails."""
    if odd := odd_kind(path):
        raise InvalidInput(f"{path} is {odd}", expected="a file, or nothing yet", next_step="name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            temporary = Path(stream.name)
            try:
                yield stream
                stream.flush()
                temporary.chmod(0o644)
                _sync(temporary)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _sync(path.parent)
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot write {path}: {error.strerror}",
            expected="a writable disk with room",
            next_step="free space or choose another directory",
        ) from error


def left_behind(directory: Path, name: str | None = None) -> list[Path]:
    """Temporary files of :func:`write_atomically` in ``directory``, for the file ``name`` or for any.

    One that is written at this moment is among them: whoever removes them must keep writers out.
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[a-z0-9_]{{8}}")
    return [path for path in directory.iterdir() if pattern.fullmatch(path.name)] if directory.is_dir() else []


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
