"""The sealed tree in S3-compatible storage: ``BUCKET/PREFIX/sealed/DIGEST/…``.

There is no rename, so an interrupted copy leaves an incomplete place, which its name does not fit: it is refused until
the same content is kept again, which completes it. What is verified is downloaded to a private local directory and
hashed there, and the caller reads that copy.
Not covered: whoever has the bucket's credentials; servers on other machines (the queues are this machine's; the same
content written twice at once is the same); a bucket that itself changes or expires objects.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.bundle import EVIDENCE, NAME
from guardrail.evidence.digest import manifest, manifest_digest, sha256
from guardrail.evidence.envelope import LARGEST
from guardrail.gate.sealed.bucket_objects import Store
from guardrail.gate.sealed.tree import Workplace, require_exact, small_file
from guardrail.gate.settings import WORK, S3Bucket
from guardrail.records import FileDigest
from guardrail.registry.verify.evidence_checks import Outline


class BucketTree(Workplace):
    """The sealed adapters of a bucket; ``root`` is the local directory of the server's own."""

    def __init__(self, place: S3Bucket, root: Path) -> None:
        super().__init__(root)
        self._store = Store(place)

    def keep(self, staged: Path, files: tuple[FileDigest, ...] | None = None) -> str:
        """Upload what is missing of a staged directory, then read all of it back; returns its digest.

        Raises:
            EvidenceInvalid: the place holds something else.
            ServiceUnavailable: the storage does not answer.
        """
        files = manifest(staged) if files is None else files
        digest = manifest_digest(files)
        there = self._store.names(digest)
        if extra := sorted(there - {entry.path for entry in files}):
            require_exact(digest, f"there with {extra[0]!r} in it")
        for entry in files:
            if entry.path not in there:
                self._store.put(staged / entry.path, digest, entry.path)
        with self.verified(digest):
            return digest

    @contextmanager
    def outlined(self, digest: str) -> Iterator[Outline]:
        """The evidence of a sealed adapter, downloaded, and the sizes of its other files.

        Raises:
            EvidenceInvalid: it is not there, or holds what cannot have come from a directory.
            ServiceUnavailable: the storage does not answer.
        """
        sizes = self._sizes(digest)
        evidence = {name for name in sizes if name.startswith(f"{EVIDENCE}/")}
        if large := sorted(name for name in evidence if sizes[name] > LARGEST):
            require_exact(digest, f"there with {large[0]!r} of {sizes[large[0]]} bytes in it")
        with self._copied(digest, evidence) as copy:
            yield Outline(copy, {name: size for name, size in sizes.items() if name not in evidence})

    @contextmanager
    def opened(self, digest: str) -> Iterator[Path]:
        """A private copy of what lies there, not checked; it does not outlive the block.

        Raises:
            EvidenceInvalid: it is not there, or holds what cannot have come from a directory.
            ServiceUnavailable: the storage does not answer.
        """
        with self._copied(digest, set(self._sizes(digest))) as copy:
            yield copy

    @contextmanager
    def verified(self, digest: str) -> Iterator[Path]:
        """A private copy of a sealed adapter, every byte hashed; it does not outlive the block.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
            ServiceUnavailable: the storage does not answer.
        """
        with self.opened(digest) as copy:
            require_exact(digest, manifest_digest(manifest(copy)))
            yield copy

    def _sizes(self, digest: str) -> dict[str, int]:
        sizes = self._store.sizes(digest)
        if not sizes:
            require_exact(digest, "not there")
        names = set(sizes)
        if strange := sorted(name for name in names if not _is_file(name, names)):
            require_exact(digest, f"there with {strange[0]!r} in it")
        return sizes

    @contextmanager
    def _copied(self, digest: str, names: set[str]) -> Iterator[Path]:
        with self.staging() as copy:
            for name in names:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                self._store.get(digest, name, copy / name)
            yield copy

    def read(self, digest: str, name: str) -> bytes:
        """One small file of a sealed adapter, NOT hashed.

        Raises:
            EvidenceInvalid: it is not there, or too large.
            ServiceUnavailable: the storage does not answer.
        """
        what = f"{name} of the sealed adapter {digest}"
        if name not in self._store.names(digest):
            raise EvidenceInvalid(f"{what} is not there", next_step="restore it from a backup")
        with self.staging() as copy:
            self._store.get(digest, name, copy / "file")
            return small_file(copy / "file", what)


def workplace(place: S3Bucket) -> Path:
    """The local directory for a bucket: ``GUARDRAIL_WORK``, or one below the temporary directory; only the server's.

    Raises:
        InvalidInput: others can write there.
    """
    named = os.environ.get(WORK)
    root = Path(named or tempfile.gettempdir()) / f"guardrail-{os.getuid()}-{sha256(str(place).encode())[:16]}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        state = root.lstat()
    except OSError as error:
        raise InvalidInput(f"cannot make {root}: {error.strerror}", next_step=f"set {WORK} to a directory") from error
    if not root.is_dir() or root.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise InvalidInput(
            f"{root} is not this server's alone",
            expected="a directory that only its user can enter",
            next_step=f"remove it, or set {WORK} to another directory",
        )
    return root


def _is_file(name: str, names: set[str]) -> bool:
    """Whether a name can have come from a directory: nothing that leads elsewhere, or is a directory as well."""
    parents = name.split("/")[:-1]
    above = ("/".join(parents[: n + 1]) for n in range(len(parents)))
    return NAME.fullmatch(name) is not None and not any(parent in names for parent in above)
