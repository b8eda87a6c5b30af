"""SHA-256 of everything: canonical JSON (RFC 8785), files, directory manifests, records.

A manifest is closed: it lists every regular file below a directory, sorted by path, and its digest is the digest of
its canonical JSON. Symbolic links are refused, because what they point at is not what was hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import rfc8785

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.records import FileDigest, Frozen

CHUNK = 1 << 20

GENESIS = "0" * 64
"""What the first of a chain names as the one before."""


def canonical(value: Frozen | dict[str, object] | list[object]) -> bytes:
    """RFC 8785 bytes of a record or of plain JSON data.

    Raises:
        EvidenceInvalid: it holds a number that canonical JSON cannot (NaN, infinity, an integer beyond 2**53).
    """
    data = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    try:
        return rfc8785.dumps(data)  # type: ignore[arg-type]
    except rfc8785.CanonicalizationError as error:
        raise EvidenceInvalid(f"a record has no canonical form: {error}") from error


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Frozen | dict[str, object] | list[object]) -> str:
    """SHA-256 of the canonical form."""
    return sha256(canonical(value))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in chunks.

    Raises:
        InvalidInput: the file cannot be read.
    """
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    return hasher.hexdigest()


def manifest(directory: Path, names: Iterable[str] | None = None) -> tuple[FileDigest, ...]:
    """Every regular file below ``directory`` (or only ``names``), sorted by path.

    Raises:
        EvidenceInvalid: a symbolic link or a special file (pipe, socket, device) lies among the files.
    """
    paths = [directory / name for name in names] if names is not None else list(directory.rglob("*"))
    for path in paths:
        if path.is_symlink():
            raise EvidenceInvalid(f"{path} is a symbolic link", expected="regular files only")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise EvidenceInvalid(f"{path} is a special file", expected="regular files only")
    files = [path for path in paths if names is not None or path.is_file()]
    entries = (
        FileDigest(path=path.relative_to(directory).as_posix(), sha256=file_sha256(path), size=path.stat().st_size)
        for path in files
    )
    return tuple(sorted(entries, key=lambda entry: entry.path))


def manifest_digest(files: tuple[FileDigest, ...]) -> str:
    """The digest that names a closed set of files."""
    return digest([entry.model_dump(mode="json") for entry in files])
