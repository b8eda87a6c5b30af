"""A home directory where the system names none: containers run as users without HOME and without an entry in passwd.

Libraries that we load ask for it while they are imported (altair, below Great Expectations) and end with an error
where there is none. They get a folder that does not exist, as Debian's accounts without a home have: nothing is read
from it and nothing is written. A folder that anybody may write, such as ``/tmp``, could be filled by somebody else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from guardrail.errors import InvalidInput

NONE: Final = "/nonexistent"


def ensure() -> None:
    """Let this process, and those that it starts, know a home directory."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NONE


def expanded(path: str) -> Path:
    """The path with ``~`` or ``~USER`` in front replaced by that home directory.

    Raises:
        InvalidInput: nobody knows which directory that is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(
            f"{path}: no home directory is known for {path.partition('/')[0]}",
            expected="a path that begins with / or a name",
            next_step="write the path out, or set HOME",
        ) from error
