"""The tree of sealed adapters: each in a directory named by the digest of everything in it.

The name is the manifest: a missing, changed or extra file gives another digest, so nothing else has to be kept to tell.
An adapter is copied to a private place, hashed there, and moved into the tree: on a disk by one rename, in object
storage by uploads (``sealed_s3.py``).
Not covered: who can write to the disk as the server's user does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from guardrail.errors import EvidenceInvalid, ServiceUnavailable
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.registry.reader import SEALED_SOURCE

STAGING = ".staging-"


def sealed_digest(source: str) -> str:
    """The digest in the location of a sealed adapter.

    Raises:
        EvidenceInvalid: it is another location.
    """
    match = SEALED_SOURCE.fullmatch(source)
    if match is None:
        raise EvidenceInvalid(
            f"the version's files lie in {source!r}, where the server did not seal them",
            expected="a version that this server admitted", next_step="promote the adapter with `guardrail promote`",
        )  # fmt: skip
    return match[1].removeprefix("sealed/")


class SealedTree(Protocol):
    """The sealed adapters, which only the server writes."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local directory where no client can write; it does not outlive the block."""

    def locked(self) -> AbstractContextManager[None]:
        """One writer at a time, over all workers of this machine."""

    def keep(self, staged: Path) -> str:
        """Put a complete staged directory into the tree; returns its digest. The same content twice is one place.

        Raises:
            EvidenceInvalid: the place is there, but holds something else.
        """

    def verified(self, digest: str) -> AbstractContextManager[Path]:
        """A local directory with a sealed adapter, every byte hashed; read it within the block.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
        """


class Workplace:
    """A local directory of the server's own: staging, and the lock that all workers of this machine share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceUnavailable(f"cannot make {root}: {error.strerror}") from error

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory inside ``root``, where no client can write either; it does not outlive the block."""
        place = self.root / f"{STAGING}{uuid.uuid4().hex}"
        try:
            place.mkdir()
            yield place
        except OSError as error:
            raise ServiceUnavailable(f"cannot write below {self.root}: {error.strerror}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, over all workers of this machine."""
        with (self.root / ".lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


class DiskTree(Workplace):
    """The sealed adapters below ``root``, on a local or mounted disk."""

    def keep(self, staged: Path) -> str:
        """Move a complete staged directory into the tree; returns its digest. The same content twice is one place.

        Raises:
            EvidenceInvalid: the place is there, but holds something else.
        """
        digest = manifest_digest(manifest(staged))
        if (self.root / digest).exists():
            self._require_exact(digest)
            return digest
        _settle(staged)
        staged.rename(self.root / digest)
        _sync(self.root)
        return digest

    @contextmanager
    def verified(self, digest: str) -> Iterator[Path]:
        """The directory of a sealed adapter, after every byte in it was hashed.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
        """
        yield self._require_exact(digest)

    def _require_exact(self, digest: str) -> Path:
        place = self.root / digest
        require_exact(digest, manifest_digest(manifest(place)) if place.is_dir() else "not there")
        return place


def require_exact(digest: str, found: str) -> None:
    """Refuse a sealed adapter that holds something else.

    Raises:
        EvidenceInvalid: ``found`` is not ``digest``.
    """
    if found != digest:
        raise EvidenceInvalid(
            f"the sealed adapter {digest} is {found}", expected="exactly the files that were sealed",
            next_step="restore it from a backup, or promote another adapter",
        )  # fmt: skip


def _settle(directory: Path) -> None:
    """Everything on disk and read-only, deepest first."""
    for path in sorted(directory.rglob("*"), reverse=True):
        _sync(path)
        path.chmod(0o555 if path.is_dir() else 0o444)
    _sync(directory)
    directory.chmod(0o555)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
