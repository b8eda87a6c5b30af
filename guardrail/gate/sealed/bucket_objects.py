"""The objects of the sealed tree in S3-compatible storage, through the client of MLflow's own repository.

So both use one endpoint, one set of credentials and the same upload options. Every failure of the storage is a service
that is unavailable, but for the start, where what the operator has to mend is told apart.
Not covered: what the objects mean (``tree_s3.py``).
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.gate.settings import S3Bucket

SET = (
    "MLFLOW_S3_ENDPOINT_URL (for storage other than AWS), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION"
)
PROBE = b"guardrail can seal here"


class Store:
    """The objects of the tree.

    Raises:
        InvalidInput: boto3 is not installed.
    """

    def __init__(self, place: S3Bucket) -> None:
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
        return set(self.sizes(digest))

    def sizes(self, digest: str) -> dict[str, int]:
        """The same, each with how many bytes it has."""
        prefix = self._key(digest, "")
        with self._answering():
            pages = self._client().get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self._place.bucket, Prefix=prefix, **self._owner)
            objects = (entry for page in found for entry in page.get("Contents", ()))
            return {str(entry["Key"]).removeprefix(prefix): int(entry["Size"]) for entry in objects}

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
                    error.got,
                    expected="a bucket that this server may list, read, write and delete in",
                    next_step=f"check the bucket, and set {SET}",
                ) from error
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
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) < 500
    return isinstance(error, (NoCredentialsError, PartialCredentialsError, ValueError))
