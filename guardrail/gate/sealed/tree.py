"""The tree of sealed adapters: each in a directory named by the digest of everything in it.

The name is the manifest: a missing, changed or extra file gives another digest, so nothing else has to be kept to tell.
An adapter is copied to a private place, hashed there, and moved into the tree: on a disk by one rename, in object
storage by uploads (``tree_s3.py``).
Not covered: who can write to the disk as the server's user does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from guardrail.errors import EvidenceInvalid, ServiceUnavailable
from guardrail.evidence.bundle import EVIDENCE
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.evidence.envelope import LARGEST
from guardrail.gate.sealed.queues import Queues
from guardrail.records import FileDigest
from guardrail.registry.read.reader import SEALED_SOURCE
from guardrail.registry.verify.evidence_checks import Outline

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
            expected="a version that this server admitted",
            next_step="promote the adapter with `guardrail promote`",
        )
    return match[1].removeprefix("sealed/")


class SealedTree(Protocol):
    """The sealed adapters, which only the server writes."""

    queues: Queues

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local directory where no client can write; it does not outlive the block."""

    def sweep(self) -> None:
        """Remove what killed processes left behind of :meth:`staging`."""

    def keep(self, staged: Path, files: tuple[FileDigest, ...] | None = None) -> str:
        """Put a complete staged directory into the tree; returns its digest. The same content twice is one place.

        ``files`` is its manifest, where it was made already. Two may keep the same at once.

        Raises:
            EvidenceInvalid: the place is there, but holds something else.
        """

    def outlined(self, digest: str) -> AbstractContextManager[Outline]:
        """The evidence of a sealed adapter and the sizes of its other files, none of which is read.

        Raises:
            EvidenceInvalid: it is not there, or something else than files is in it.
        """

    def opened(self, digest: str) -> AbstractContextManager[Path]:
        """A local directory with what lies there; nothing of it is checked. Read it within the block.

        Raises:
            EvidenceInvalid: it is not there.
        """

    def verified(self, digest: str) -> AbstractContextManager[Path]:
        """A local directory with a sealed adapter, every byte hashed; read it within the block.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
        """

    def read(self, digest: str, name: str) -> bytes:
        """One small file of a sealed adapter, NOT hashed: compare it with a digest that is known.

        Raises:
            EvidenceInvalid: it is not there, or too large.
            ServiceUnavailable: the storage does not answer.
        """


class Workplace:
    """A local directory of the server's own: staging, and the queues that all workers of this machine share."""

    def __init__(self, root: Path) -> None:
        self.root, self.queues = root, Queues(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceUnavailable(f"cannot make {root}: {error.strerror}") from error

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory inside ``root``, where no client can write either; it does not outlive the block.

        It is locked as long as its process lives, so that :meth:`sweep` can tell one that a crash left behind.
        """
        place, lock = self.root / f"{STAGING}{uuid.uuid4().hex}", -1
        try:
            with _held(self.root):
                place.mkdir()
                lock = _lock(place)
            yield place
        except OSError as error:
            raise ServiceUnavailable(f"cannot write below {self.root}: {error.strerror}") from error
        finally:
            _remove(place)
            if lock >= 0:
                os.close(lock)

    def sweep(self) -> None:
        """Remove what killed processes left behind of :meth:`staging`; a living one's is locked and stays.

        Raises:
            ServiceUnavailable: the disk refuses.
        """
        try:
            with _held(self.root):
                for place in sorted(self.root.glob(f"{STAGING}*")):
                    _remove_unless_locked(place)
        except OSError as error:
            raise ServiceUnavailable(f"cannot tidy up below {self.root}: {error.strerror}") from error


class DiskTree(Workplace):
    """The sealed adapters below ``root``, on a local or mounted disk."""

    def keep(self, staged: Path, files: tuple[FileDigest, ...] | None = None) -> str:
        """Move a complete staged directory into the tree; returns its digest. The same content twice is one place.

        Raises:
            EvidenceInvalid: the place is there, but holds something else.
        """
        digest = manifest_digest(manifest(staged) if files is None else files)
        if (self.root / digest).exists() or not self._moved(staged, digest):
            self._require_exact(digest)
        return digest

    @contextmanager
    def outlined(self, digest: str) -> Iterator[Outline]:
        """The evidence of a sealed adapter and the sizes of its other files, none of which is read.

        Raises:
            EvidenceInvalid: it is not there, or something else than files is in it.
        """
        with self.opened(digest) as place:
            yield outline(place)

    @contextmanager
    def opened(self, digest: str) -> Iterator[Path]:
        """The directory of a sealed adapter; nothing of it is checked.

        Raises:
            EvidenceInvalid: it is not there.
        """
        place = self.root / digest
        if not place.is_dir():
            require_exact(digest, "not there")
        yield place

    @contextmanager
    def verified(self, digest: str) -> Iterator[Path]:
        """The directory of a sealed adapter, after every byte in it was hashed.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
        """
        yield self._require_exact(digest)

    def read(self, digest: str, name: str) -> bytes:
        """One small file of a sealed adapter, NOT hashed.

        Raises:
            EvidenceInvalid: it is not there, or too large.
        """
        return small_file(self.root / digest / name, f"{name} of the sealed adapter {digest}")

    def _moved(self, staged: Path, digest: str) -> bool:
        """Move it in one step; False where somebody else has kept the same meanwhile."""
        _settle(staged)
        try:
            staged.rename(self.root / digest)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        _sync(self.root)
        return True

    def _require_exact(self, digest: str) -> Path:
        with self.opened(digest) as place:
            require_exact(digest, manifest_digest(manifest(place)))
            return place


def outline(directory: Path) -> Outline:
    """What is known of a directory before the adapter's own files are read.

    Raises:
        EvidenceInvalid: a symbolic link or a special file lies among the files.
    """
    sizes: dict[str, int] = {}
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise EvidenceInvalid(f"the sealed adapter holds {inside}", expected="regular files only")
        if path.is_file() and inside.parts[0] != EVIDENCE:
            sizes[inside.as_posix()] = path.stat().st_size
    return Outline(directory, sizes)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """The directory's own lock, which costs no file."""
    descriptor = _lock(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(directory: Path, flags: int = fcntl.LOCK_EX) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_unless_locked(place: Path) -> None:
    try:
        descriptor = _lock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # in use, or gone: sealed, or finished
        return
    try:
        _remove(place)
    finally:
        os.close(descriptor)


def _remove(place: Path) -> None:
    """A staged directory, also one that was settled already: what is in a read-only one cannot be removed."""
    for path in (place, *place.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)


def small_file(path: Path, what: str) -> bytes:
    """The bytes of an envelope.

    Raises:
        EvidenceInvalid: it is not there, or too large.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise EvidenceInvalid(
            f"{what} cannot be read: {error.strerror}", next_step="restore it from a backup, or promote another adapter"
        ) from error
    if len(data) > LARGEST:
        raise EvidenceInvalid(f"{what} is too large", expected=f"at most {LARGEST} bytes")
    return data


def require_exact(digest: str, found: str) -> None:
    """Refuse a sealed adapter that holds something else.

    Raises:
        EvidenceInvalid: ``found`` is not ``digest``.
    """
    if found != digest:
        raise EvidenceInvalid(
            f"the sealed adapter {digest} is {found}",
            expected="exactly the files that were sealed",
            next_step="restore it from a backup, or promote another adapter",
        )


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
