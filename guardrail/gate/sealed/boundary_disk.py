"""No location that a client names leads into the sealed tree: not by PUT, DELETE, multipart or presigned upload.

Every artifact repository that MLflow builds in the server comes from one table, scheme by scheme. The gate replaces the
local ones by subclasses that judge the resolved path (symbolic links, ``..``, percent-encoding, other names of the same
directory) before each write, and refuses schemes of unknown plug-ins. Where adapters are sealed in a bucket, it also
replaces the repositories that speak S3. Reading through the artifact proxy is untouched.
Not covered: whoever writes to the disk or the bucket directly.
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.gate.mlflow_errors import refusal
from guardrail.gate.sealed.boundary_s3 import SPEAK_S3, BucketBoundary, JudgedBucket
from guardrail.gate.sealed.guarded_repository import Judging, Protected, forms, refused

ELSEWHERE = frozenset({"abfss", "b2", "dbfs", "ftp", "gs", "hdfs", "r2", "s3", "sftp", "viewfs", "wasbs"})
"""Storage that is not this machine's disk. MLflow itself refuses hosts that the operator did not configure."""
INDIRECT = frozenset({"http", "https", "mlflow-artifacts", "models", "runs"})
"""Resolved by MLflow to another location of this table, or to this server's own proxy."""
SAME_BUCKETS = frozenset({"gs"})
"""Speaks another protocol, but reaches buckets that can be used through S3 as well."""

READS = frozenset(
    {
        "artifact_dir",
        "convert_b2_uri_to_s3_endpoint_url",
        "convert_r2_uri_to_s3_endpoint_url",
        "download_archived_trace_data",
        "download_artifacts",
        "download_trace_attachment",
        "download_trace_attachment_to_file",
        "download_trace_data",
        "download_trace_data_to_file",
        "flush_async_logging",
        "get_download_presigned_url",
        "get_local_path",
        "get_s3_file_upload_extra_args",
        "list_artifacts",
        "max_workers",
        "parse_s3_compliant_uri",
    }
)
JUDGED = frozenset(
    {
        "abort_multipart_upload",
        "complete_multipart_upload",
        "create_multipart_upload",
        "create_presigned_upload_url",
        "delete_artifacts",
        "log_artifact",
        "log_artifact_from_async_stream",
        "log_artifact_from_stream",
        "log_artifacts",
    }
)
THROUGH_JUDGED = frozenset(
    {
        "upload_archived_trace_data",
        "upload_archived_trace_data_bytes",
        "upload_attachment",
        "upload_trace_data",
    }
)

Factory = Callable[..., ArtifactRepository]


class Boundary:
    """Directories that only the server writes: the sealed tree, or what stands for it on this machine."""

    def __init__(self, *roots: Path) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def holds(self, target: str) -> bool:
        """Whether writing to ``target`` could write into one; in doubt, yes."""
        return any(self._inside(form) for form in forms(target))

    def touches(self, target: str) -> bool:
        """Whether deleting ``target`` could delete in one: it lies inside, or around it."""
        return self.holds(target) or any(self._around(form) for form in forms(target))

    def _inside(self, target: str) -> bool:
        try:
            resolved = Path(target).resolve()
            return any(self._same(place) for place in (resolved, *resolved.parents))
        except (OSError, ValueError, RuntimeError):
            return True

    def _around(self, target: str) -> bool:
        try:
            resolved = Path(target).resolve()
            return any(resolved in root.parents for root in self._roots)
        except (OSError, ValueError, RuntimeError):
            return True

    def _same(self, place: Path) -> bool:
        """The same directory, also under another name (another case, a mount)."""
        return place in self._roots or (place.exists() and any(place.samefile(root) for root in self._roots))


class JudgedRepository(Judging, LocalArtifactRepository):
    """A local repository that refuses the sealed tree; mixed into whatever class was registered."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        if self.boundary.holds(self.artifact_dir):
            raise refused(artifact_uri)

    def target(self, artifact_path: str | None, file_name: str = "") -> str:
        """The path on the disk."""
        parts = (self.artifact_dir, artifact_path or "", os.path.basename(file_name))  # noqa: PTH119
        return os.path.join(*parts)  # noqa: PTH118 - as the repository joins it, unresolved


def install(registry: ArtifactRepositoryRegistry, boundary: Boundary, buckets: BucketBoundary | None = None) -> None:
    """Guard every scheme of the table; with ``buckets``, those that reach object storage, too.

    Raises:
        InvalidInput: a guarded repository has methods that nobody classified.
    """
    table = cast("dict[str, Factory]", registry._registry)
    for scheme, factory in list(table.items()):
        registry.register(scheme, guarded(scheme, factory, boundary, buckets))


def guarded(scheme: str, factory: Factory, boundary: Boundary, buckets: BucketBoundary | None = None) -> Factory:
    """What takes the place of ``factory`` in the table."""
    if isinstance(factory, type) and issubclass(factory, Judging):
        return cast("Factory", factory)
    if isinstance(factory, type) and issubclass(factory, LocalArtifactRepository):
        return _judged(factory, JudgedRepository, boundary)
    if buckets is not None and isinstance(factory, type) and issubclass(factory, SPEAK_S3):
        return _judged(factory, JudgedBucket, buckets)
    if scheme in ELSEWHERE | INDIRECT:
        found = _not_around(cast("Factory", factory), (LocalArtifactRepository, *(SPEAK_S3 if buckets else ())))
        return _other_buckets(found, buckets) if buckets is not None and scheme in SAME_BUCKETS else found
    return _unknown(scheme)


def _judged(kind: type[ArtifactRepository], judge: type[Judging], boundary: Protected) -> Factory:
    names = {name for name in dir(kind) if not name.startswith("_")}
    if unknown := sorted(names - READS - JUDGED - THROUGH_JUDGED):
        raise InvalidInput(
            f"the artifact repository {kind.__name__} has methods that the gate does not know: {', '.join(unknown)}",
            expected="an MLflow version that this guardrail was made for",
        )
    return cast("Factory", type(f"Judged{kind.__name__}", (judge, kind), {"boundary": boundary}))


def _not_around(factory: Factory, kinds: tuple[type, ...]) -> Factory:
    """The factory, unless it makes a repository that should have been guarded."""
    if isinstance(factory, type):
        return factory

    def build(artifact_uri: str, **options: Any) -> ArtifactRepository:
        repository = factory(artifact_uri, **options)
        if isinstance(repository, kinds) and not isinstance(repository, Judging):
            raise refused(artifact_uri)
        return repository

    return build


def _other_buckets(factory: Factory, buckets: BucketBoundary) -> Factory:
    """The factory for buckets that cannot be the one in which adapters are sealed."""

    def build(artifact_uri: str, **options: Any) -> ArtifactRepository:
        if buckets.may_be_ours(urlsplit(artifact_uri).netloc):
            raise refused(artifact_uri)
        return factory(artifact_uri, **options)

    return build


def _unknown(scheme: str) -> Factory:
    def build(artifact_uri: str, **_: Any) -> ArtifactRepository:
        error = EvidenceInvalid(
            f"the gate does not know where {artifact_uri!r} leads ({scheme} is a plug-in's scheme)",
            expected="a scheme of MLflow itself",
        )
        raise refusal(error)

    return build
