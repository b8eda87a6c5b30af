"""Key files as the disk holds them: made once with exact permissions, refused when others can reach them.

Not covered: what is in them (``key_pairs.py``), keys that never leave a service (``signers.py``).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from guardrail.errors import InvalidInput

LARGEST_KEY = 1 << 16


def create(path: Path, data: bytes, mode: int) -> None:
    """A new file with exactly ``mode``; O_EXCL also refuses a symbolic link.

    Raises:
        FileExistsError: something of that name is there.
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def read_private(path: Path) -> bytes:
    """The file's bytes; permissions are checked on the open descriptor, so they cannot be swapped in between.

    Raises:
        InvalidInput: no readable regular file, or others may read or change it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        why = "it is a symbolic link" if _is_link(path) else getattr(error, "strerror", "no such name")
        raise InvalidInput(f"cannot read the private key {path}: {why}", next_step="guardrail keys init") from error
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise InvalidInput(f"the private key {path} is not a regular file")
        if state.st_mode & 0o077:
            raise InvalidInput(
                f"the private key {path} has mode {stat.S_IMODE(state.st_mode):04o}: others may read or change it",
                expected="mode 0600",
                next_step=f"chmod 600 {path}, and replace the key if others could have read it",
            )
        return stream.read(LARGEST_KEY)


def read_public(path: Path) -> bytes:
    """The file's first bytes: enough for any key.

    Raises:
        InvalidInput: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST_KEY)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "no such name")
        raise InvalidInput(f"cannot read the public key {path}: {why}") from error


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except ValueError:
        return False
