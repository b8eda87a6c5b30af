"""The sealed tree in S3-compatible storage: ``BUCKET/PREFIX/sealed/DIGEST/…``.

There is no rename, so an interrupted copy leaves an incomplete place, which its name does not fit: it is refused until
the same content is kept again, which completes it. What is verified is downloaded to a private local directory and
hashed there, and the caller reads that copy. MLflow's own repository gives the client: one endpoint, one set of
credentials and upload options for both.
Not covered: whoever has the bucket's credentials; servers on other machines (the lock is this machine's; the same
content written twice at once is the same); a bucket that itself changes or expires objects.
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import NAME
from guardrail.evidence.digest import manifest, manifest_digest, sha256
from guardrail.registry.server.sealed import Workplace, require_exact
from guardrail.registry.server.settings import WORK, Bucket

SET = "MLFLOW_S3_ENDPOINT_URL (for storage other than AWS), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION"
PROBE = b"guardrail can seal here"


class BucketTree(Workplace):
    """The sealed adapters of a bucket; ``root`` is the local directory of the server's own."""

    def __init__(self, place: Bucket, root: Path) -> None:
        super().__init__(root)
        self._store = Store(place)

    def keep(self, staged: Path) -> str:
        """Upload what is missing of a staged directory, then read all of it back; returns its digest.

        Raises:
            EvidenceInvalid: the place holds something else.
            ServiceUnavailable: the storage does not answer.
        """
        files = manifest(staged)
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
    def verified(self, digest: str) -> Iterator[Path]:
        """A private copy of a sealed adapter, every byte hashed; it does not outlive the block.

        Raises:
            EvidenceInvalid: it is not there, or a file is missing, changed or extra.
            ServiceUnavailable: the storage does not answer.
        """
        names = self._store.names(digest)
        if strange := sorted(name for name in names if not _is_file(name, names)):
            require_exact(digest, f"there with {strange[0]!r} in it")
        with self.staging() as copy:
            for name in names:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                self._store.get(digest, name, copy / name)
            require_exact(digest, manifest_digest(manifest(copy)) if names else "not there")
            yield copy


class Store:
    """The objects of the tree.

    Raises:
        InvalidInput: boto3 is not installed.
    """

    def __init__(self, place: Bucket) -> None:
        try:
            import boto3  # noqa: F401 - MLflow's repository imports it late
        except ImportError as error:
            raise InvalidInput(
                f"{place} needs boto3", expected="the extra s3", next_step="pip install 'mlflow-guardrail[s3]'"
            ) from error
        self._place = place
        self._repository = S3ArtifactRepository(str(place))
        self._owner: dict[str, str] = self._repository._bucket_owner_params

    def names(self, digest: str) -> set[str]:
        """Every object below a digest, however many pages they fill, relative to it."""
        prefix = self._key(digest, "")
        with self._answering():
            pages = self._client().get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self._place.bucket, Prefix=prefix, **self._owner)
            return {entry["Key"].removeprefix(prefix) for page in found for entry in page.get("Contents", ())}

    def put(self, source: Path, digest: str, name: str) -> None:
        """Upload one file."""
        with self._answering():
            key = self._key(digest, name)
            self._repository._upload_file(self._client(), str(source), self._place.bucket, key)

    def get(self, digest: str, name: str, target: Path) -> None:
        """Download one file."""
        with self._answering():
            options = {"ExtraArgs": self._owner} if self._owner else {}
            self._client().download_file(self._place.bucket, self._key(digest, name), str(target), **options)

    def require_usable(self) -> None:
        """Write, read and delete an object where adapters are to be sealed.

        Raises:
            InvalidInput: no credentials, no such bucket, or no permission.
            ServiceUnavailable: the storage does not answer.
        """
        try:
            found = self._probe()
        except ServiceUnavailable as error:
            if _is_for_the_operator(error.__cause__):
                raise InvalidInput(
                    error.got, expected="a bucket that this server may list, read, write and delete in",
                    next_step=f"check the bucket, and set {SET}",
                ) from error  # fmt: skip
            raise
        if found != PROBE:
            raise InvalidInput(f"{self._place} gave other bytes back than were written", expected="the same bytes")

    def _probe(self) -> bytes:
        where = {"Bucket": self._place.bucket, "Key": self._key(f".probe-{uuid.uuid4().hex}"), **self._owner}
        options = self._repository.get_s3_file_upload_extra_args() or {}
        with self._answering():
            client = self._client()
            client.put_object(Body=PROBE, **where, **options)
            found: bytes = client.get_object(**where)["Body"].read()
            client.delete_object(**where)
        self.names("0" * 64)
        return found

    def _client(self) -> Any:
        return self._repository._get_s3_client()

    def _key(self, *names: str) -> str:
        return posixpath.join(self._place.sealed, *names)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn the storage's errors into ours."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:  # ValueError: an endpoint without a host
            raise ServiceUnavailable(
                f"cannot seal in {self._place}: {error}", next_step=f"try again, or check {SET}"
            ) from error


def _is_for_the_operator(error: BaseException | None) -> bool:
    """Whether trying again cannot help: no credentials, no endpoint of that form, or a refusal of the storage."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500
    return isinstance(error, (NoCredentialsError, PartialCredentialsError, ValueError))


def workplace(place: Bucket) -> Path:
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
            f"{root} is not this server's alone", expected="a directory that only its user can enter",
            next_step=f"remove it, or set {WORK} to another directory",
        )  # fmt: skip
    return root


def _is_file(name: str, names: set[str]) -> bool:
    """Whether a name can have come from a directory: nothing that leads elsewhere, or is a directory as well."""
    parents = name.split("/")[:-1]
    above = ("/".join(parents[: n + 1]) for n in range(len(parents)))
    return NAME.fullmatch(name) is not None and not any(parent in names for parent in above)
