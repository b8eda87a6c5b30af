"""Fetching an adapter that verified: exactly the bytes that were checked, or nothing at all.

Files arrive in a private directory beside their place, are checked there, and are moved by one rename.
Not covered: whoever writes as the same user meanwhile.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from guardrail.errors import InvalidInput, ServiceUnavailable

Found = TypeVar("Found")


def pull(target: Path, verify: Callable[[Path], Found]) -> Found:
    """Let ``verify`` download into an empty directory and check what came; only then it becomes ``target``.

    Whatever is raised, nothing is left behind.

    Raises:
        InvalidInput: ``target`` is there already, or its parent is not.
        ServiceUnavailable: the disk is full or read-only.
    """
    require_free(target)
    with _beside(target) as place:
        found = verify(place)
        _settle(place)
        require_free(target)
        try:
            place.rename(target)
        except OSError as error:
            raise _unwritable(target, error) from error
        _sync(target.parent)
    return found


def require_free(target: Path) -> None:
    """Refuse a place that is taken, or that has no directory around it."""
    if os.path.lexists(target):
        raise InvalidInput(f"{target} is already there", expected="a directory that is not there yet")
    if not target.parent.is_dir():
        raise InvalidInput(f"there is no directory {target.parent}", expected=f"a directory for {target.name}")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty directory on the same disk, inside one that nobody else may enter."""
    try:
        private = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        place = private / "adapter"
        place.mkdir()
        yield place
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _settle(directory: Path) -> None:
    """Everything on the disk, deepest first."""
    for path in (*sorted(directory.rglob("*"), reverse=True), directory):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(target: Path, error: OSError) -> ServiceUnavailable:
    return ServiceUnavailable(f"cannot write {target}: {error.strerror}", next_step="free space, or write elsewhere")
