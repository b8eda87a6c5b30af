"""Files in directories that somebody else may have prepared: regular files only, links never followed, no waiting.

A run directory is untrusted input. A link in it would have us read or replace a file elsewhere (CWE-59), a pipe would
have us wait for ever, a device would have no end, and a second name (a hard link) of a file that we change in place
would change the other file. The line is: what a user names on the command line may be a link; whatever lies inside a
run, a cache or an output directory may not.

``lstat`` comes before opening, because opening a device can do something, and ``fstat`` after it, because the name
may mean another file by then. Not covered: somebody who swaps directories while we work; a run that anybody may write
to is warned of.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from guardrail import logs
from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable

LARGEST = 256 << 20
"""Bytes of one record or note; no stage writes as much."""
NO_LINKS = "a regular file or directory: no link, pipe, socket or device"
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
log = logs.logger(__name__)


def odd_kind(path: Path) -> str:
    """What is at ``path`` if that is no regular file, in words; empty for a regular file and for nothing at all."""
    try:
        return _odd(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return ""


def read(path: Path, largest: int = LARGEST) -> bytes | None:
    """The bytes of the regular file at ``path``; None where nothing is there.

    Raises:
        EvidenceInvalid: it is no regular file, or has more than ``largest`` bytes.
        InvalidInput: it cannot be read.
    """
    try:
        with _opened(path, os.O_RDONLY) as stream:
            huge = os.fstat(stream.fileno()).st_size > largest
            data = b"" if huge else stream.read(largest + 1)  # it may have grown
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if huge or len(data) > largest:
        raise EvidenceInvalid(
            f"{path} has more than {largest:,} bytes", expected="a file that a stage wrote", next_step=_remove(path)
        )
    return data


def open_to_lock(path: Path) -> IO[bytes]:
    """The file at ``path``, made where it is not there, to be locked; nothing in it is changed.

    Raises:
        EvidenceInvalid: it is no regular file, or has another name elsewhere.
        OSError: the disk refuses.
    """
    return _opened(path, os.O_RDWR | os.O_CREAT, single=True)


def open_to_append(path: Path, *, single: bool = True) -> IO[bytes]:
    """The file at ``path``, made where it is not there, to be read and added to at its end.

    Args:
        path: where it is.
        single: refuse a file that has another name elsewhere, whose bytes would change, too.

    Raises:
        EvidenceInvalid: it is no regular file, or has another name where ``single`` is asked for.
        OSError: the disk refuses.
    """
    return _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, single=single)


def copy(source: Path, target: Path) -> None:
    """Make ``target`` a copy of the regular file ``source``; ``target`` must not be there.

    Raises:
        EvidenceInvalid: the source is no regular file.
        OSError: it is not there, or the disk refuses.
    """
    with _opened(source, os.O_RDONLY) as stream, target.open("xb") as made:
        shutil.copyfileobj(stream, made, 1 << 20)


def remove(path: Path) -> None:
    """Remove what is at ``path``, a whole directory too; of a link the link, never what it points at.

    Raises:
        ServiceUnavailable: the disk refuses.
    """
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ServiceUnavailable(f"cannot remove {path}: {error.strerror}", next_step="remove it by hand") from error


def require_regular(directory: Path, single: Collection[str] = ()) -> None:
    """Refuse a directory that holds anything but regular files and directories, at any depth.

    Args:
        directory: what to look through; the user may have named a link to it. Nothing there is well.
        single: names directly in ``directory`` at or below which a file may have no second name (hard link), because
            libraries that we call write there in place.

    Raises:
        EvidenceInvalid: naming the first odd file.
        InvalidInput: it cannot be looked through.
    """
    try:
        for path in _walk(directory) if directory.is_dir() else ():
            top = path.relative_to(directory).parts[0]
            _require_entry(path, path.lstat(), single=top in single, directories=True)
        if directory.is_dir() and directory.stat().st_mode & stat.S_IWOTH:
            log.warning("everybody on this machine may change %s while we work: chmod o-w", directory)
    except OSError as error:
        raise InvalidInput(f"cannot look through {directory}: {error.strerror}") from error


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from _walk(path)


def _opened(path: Path, flags: int, *, single: bool = False) -> IO[bytes]:
    """The regular file at ``path``; checked by name first, then as it was opened."""
    if odd := odd_kind(path):
        raise _refused(path, f"is {odd}")
    try:
        descriptor = os.open(path, flags | _FLAGS, 0o644)
    except OSError as error:
        if odd := odd_kind(path):  # it came in between
            raise _refused(path, f"is {odd}") from error
        raise
    try:
        _require_entry(path, os.fstat(descriptor), single=single)
        return os.fdopen(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def _require_entry(path: Path, state: os.stat_result, *, single: bool, directories: bool = False) -> None:
    if directories and stat.S_ISDIR(state.st_mode):
        return
    if odd := _odd(state):
        raise _refused(path, f"is {odd}")
    if single and state.st_nlink != 1:
        raise _refused(path, f"has {state.st_nlink} names (hard links)", "a file of its own: it is written to")


def _odd(state: os.stat_result) -> str:
    return next((words for test, words in _KINDS if test(state.st_mode)), "")


def _refused(path: Path, what: str, expected: str = NO_LINKS) -> EvidenceInvalid:
    return EvidenceInvalid(f"{path} {what}", expected=expected, next_step=_remove(path))


def _remove(path: Path) -> str:
    return f"find out who put it there; remove {path}, or start in a new directory"
