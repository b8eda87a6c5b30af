"""Writes a file so that a reader sees the old bytes or all of the new ones, even across a crash."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from guardrail.errors import ServiceUnavailable


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to disk, rename it, flush the directory.

    Raises:
        ServiceUnavailable: the disk is full, read-only or otherwise refuses; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot write {path}: {error.strerror}", expected="a writable disk with room",
            next_step="free space or choose another directory",
        ) from error  # fmt: skip


def left_behind(directory: Path, name: str | None = None) -> list[Path]:
    """Temporary files of :func:`write_atomically` in ``directory``, for the file ``name`` or for any.

    One that is written at this moment is among them: whoever removes them must keep writers out.
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[a-z0-9_]{{8}}")
    return [path for path in directory.iterdir() if pattern.fullmatch(path.name)] if directory.is_dir() else []


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
