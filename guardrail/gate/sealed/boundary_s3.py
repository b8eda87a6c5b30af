"""The boundary in S3-compatible storage: which bucket and key lie in the sealed tree, under whatever name.

To S3 a key is a string: dots, double slashes and case name other objects. Stores that keep objects as files see it
otherwise, so a key is judged as it is, with dots and slashes resolved, decoded, and folded; what is inside in one of
these readings is refused. A bucket has other names (access points, ARNs) that do not tell which one it is; keys below
such a name are judged as if it were ours. An address that the server signed is for one key, which was judged.
Not covered: addresses that were signed before the gate was active (they expire), and whoever has credentials.
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

from mlflow.store.artifact.optimized_s3_artifact_repo import OptimizedS3ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from guardrail.gate.sealed.guarded_repository import Judging, forms, refused
from guardrail.gate.settings import ACCESS_POINTS, S3Bucket
from guardrail.names import same

SPEAK_S3 = (S3ArtifactRepository, OptimizedS3ArtifactRepository)
"""The repositories of ``s3``, ``r2`` and ``b2``."""
PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]*[a-z0-9]")


class BucketBoundary:
    """The sealed tree in a bucket. A target is ``AUTHORITY/KEY``, the authority as in the location."""

    def __init__(self, place: S3Bucket) -> None:
        self._bucket, self._root = place.bucket, place.sealed.split("/")

    def holds(self, target: str) -> bool:
        """Whether writing to ``target`` could write into the tree; in doubt, yes."""
        return any(len(way) >= len(self._root) and self._along(way) for way in self._ways(target))

    def touches(self, target: str) -> bool:
        """Whether deleting ``target`` could delete in the tree: it lies inside, or around it."""
        return any(self._along(way) for way in self._ways(target))

    def may_be_ours(self, authority: str) -> bool:
        """Whether a location's authority could name the bucket of the tree."""
        return any(self._keys(authority, ""))

    def _along(self, way: list[str]) -> bool:
        return all(same(one, other) for one, other in zip(way, self._root, strict=False))

    def _ways(self, target: str) -> Iterator[list[str]]:
        """The segments of the key, in every reading."""
        authority, _, key = target.partition("/")
        for found in self._keys(authority, key):
            for form in forms(found):
                plain = form.replace("\\", "/")
                for reading in (form, plain, posixpath.normpath(f"/{plain}")):
                    yield [segment for segment in reading.split("/") if segment]

    def _keys(self, authority: str, key: str) -> Iterator[str]:
        """The keys that ``key`` may be in our bucket; none if it is certainly in another one."""
        name, _, host = authority.partition("@")
        if name == self._bucket or not PLAIN.fullmatch(name) or name.endswith(ACCESS_POINTS):
            yield key or "/"
        if self._bucket in re.split(
            r"[.@:]", host.lower()
        ):  # an endpoint with our bucket in it: the name is a directory
            yield key or "/"
            yield f"{name}/{key}"


class JudgedBucket(Judging):
    """A repository that speaks S3 and refuses the sealed tree; goes before whatever class was registered."""

    artifact_uri: str

    def __init__(self, artifact_uri: str, *given: Any, **options: Any) -> None:
        if self.boundary.holds(self._joined(artifact_uri)):
            raise refused(artifact_uri)
        self._next().__init__(artifact_uri, *given, **options)

    def target(self, artifact_path: str | None, file_name: str = "") -> str:
        """Authority and key."""
        return self._joined(self.artifact_uri, artifact_path or "", os.path.basename(file_name))  # noqa: PTH119

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        """Judge, then write: this one goes to storage without the methods above."""
        self._judge(None)
        self._next().upload_archived_trace_data_bytes(data)

    def _joined(self, location: str, *names: str) -> str:
        """As the repository reads its location and joins names to it."""
        path = self._next().parse_s3_compliant_uri(location)[1]
        return f"{urlparse(location).netloc}/{posixpath.join(path, *names)}"
