"""Cached files, used only while they are whole: a digest stands beside each; a torn or rotten one is made again.

It notices accidents (a power cut, a bad disk, a truncated copy), not attackers: who can write the file can write the
digest too, and a run directory is trusted while it is worked in.
"""

from __future__ import annotations

from pathlib import Path

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.evidence.digest import file_sha256


def seal(path: Path) -> None:
    """Note the digest of a file that is complete."""
    write_atomically(_note(path), file_sha256(path).encode())


def whole(path: Path) -> bool:
    """Whether the file is there and is what was sealed."""
    note = nofollow.read(_note(path))
    return note is not None and path.exists() and note.decode("ascii", errors="replace") == file_sha256(path)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
