"""No location that a client names leads into the sealed tree: not by PUT, DELETE, multipart or presigned upload.

Every artifact repository that MLflow builds in the server comes from one table, scheme by scheme. The gate replaces the
local ones by subclasses that judge the resolved path (symbolic links, ``..``, percent-encoding, other names of the same
directory) before each write, and refuses schemes of unknown plug-ins. Reading through the artifact proxy is untouched.
Not covered: whoever writes to the disk directly, and object storage (the gate does not seal there yet).
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.registry.server.refusals import refusal

ELSEWHERE = frozenset({"abfss", "b2", "dbfs", "ftp", "gs", "hdfs", "r2", "s3", "sftp", "viewfs", "wasbs"})
"""Storage that is not this machine's disk. MLflow itself refuses hosts that the operator did not configure."""
INDIRECT = frozenset({"http", "https", "mlflow-artifacts", "models", "runs"})
"""Resolved by MLflow to another location of this table, or to this server's own proxy."""

READS = frozenset({
    "artifact_dir", "download_archived_trace_data", "download_artifacts", "download_trace_attachment",
    "download_trace_attachment_to_file", "download_trace_data", "download_trace_data_to_file", "flush_async_logging",
    "get_download_presigned_url", "get_local_path", "list_artifacts", "max_workers",
})  # fmt: skip
JUDGED = frozenset({
    "abort_multipart_upload", "complete_multipart_upload", "create_multipart_upload", "create_presigned_upload_url",
    "delete_artifacts", "log_artifact", "log_artifact_from_async_stream", "log_artifact_from_stream", "log_artifacts",
})  # fmt: skip
THROUGH_JUDGED = frozenset({
    "upload_archived_trace_data", "upload_archived_trace_data_bytes", "upload_attachment", "upload_trace_data",
})  # fmt: skip

Factory = Callable[..., ArtifactRepository]


class Boundary:
    """The sealed tree as a place on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def holds(self, target: str) -> bool:
        """Whether writing to ``target`` could write into the tree; in doubt, yes."""
        return any(self._inside(form) for form in _forms(target))

    def touches(self, target: str) -> bool:
        """Whether deleting ``target`` could delete in the tree: it lies inside, or around it."""
        return self.holds(target) or any(self._around(form) for form in _forms(target))

    def _inside(self, target: str) -> bool:
        try:
            resolved = Path(target).resolve()
            return any(self._same(place) for place in (resolved, *resolved.parents))
        except (OSError, ValueError, RuntimeError):
            return True

    def _around(self, target: str) -> bool:
        try:
            return Path(target).resolve() in self._root.parents
        except (OSError, ValueError, RuntimeError):
            return True

    def _same(self, place: Path) -> bool:
        """The same directory, also under another name (another case, a mount)."""
        return place == self._root or (place.exists() and place.samefile(self._root))


class JudgedRepository(LocalArtifactRepository):
    """A local repository that refuses the sealed tree; mixed into whatever class was registered."""

    boundary: Boundary

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        if self.boundary.holds(self.artifact_dir):
            raise _refused(artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Judge, then write."""
        self._judge(artifact_path, local_file)
        super().log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Judge every file, then write."""
        for path in (Path(local_dir), *Path(local_dir).rglob("*")):
            self._judge(os.path.join(artifact_path or "", path.relative_to(local_dir)))  # noqa: PTH118 - not resolved
        super().log_artifacts(local_dir, artifact_path)

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Judge, then write."""
        self._judge(artifact_path, artifact_file_name)
        super().log_artifact_from_stream(stream, artifact_file_name, artifact_path)

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Judge, then write."""
        self._judge(artifact_path, artifact_file_name)
        await super().log_artifact_from_async_stream(chunks, artifact_file_name, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Judge, then delete; a directory around the tree is refused, too."""
        target = os.path.join(self.artifact_dir, artifact_path or "")  # noqa: PTH118 - as the repository joins it
        if self.boundary.touches(target):
            raise _refused(target)
        super().delete_artifacts(artifact_path)

    def create_multipart_upload(self, local_file: str, num_parts: int, artifact_path: str | None = None) -> Any:
        """Judge, then hand out addresses."""
        self._judge(artifact_path, local_file)
        return self._next().create_multipart_upload(local_file, num_parts, artifact_path)

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: list[Any], artifact_path: str | None = None
    ) -> None:
        """Judge, then write."""
        self._judge(artifact_path, local_file)
        self._next().complete_multipart_upload(local_file, upload_id, parts, artifact_path)

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> None:
        """Judge, then drop the parts."""
        self._judge(artifact_path, local_file)
        self._next().abort_multipart_upload(local_file, upload_id, artifact_path)

    def create_presigned_upload_url(self, artifact_path: str, expiration: int = 900) -> Any:
        """Judge, then hand out an address."""
        self._judge(artifact_path)
        return self._next().create_presigned_upload_url(artifact_path, expiration)

    def _next(self) -> Any:
        """The class that was registered; only some have these methods."""
        return super()

    def _judge(self, artifact_path: str | None, file_name: str = "") -> None:
        parts = (self.artifact_dir, artifact_path or "", os.path.basename(file_name))  # noqa: PTH119
        target = os.path.join(*parts)  # noqa: PTH118 - as the repository joins it, unresolved
        if self.boundary.holds(target):
            raise _refused(target)


def install(registry: ArtifactRepositoryRegistry, boundary: Boundary) -> None:
    """Guard every scheme of the table.

    Raises:
        InvalidInput: a local repository has methods that nobody classified.
    """
    table = cast("dict[str, Factory]", registry._registry)
    for scheme, factory in list(table.items()):
        registry.register(scheme, guarded(scheme, factory, boundary))


def guarded(scheme: str, factory: Factory, boundary: Boundary) -> Factory:
    """What takes the place of ``factory`` in the table."""
    if isinstance(factory, type) and issubclass(factory, JudgedRepository):
        return factory
    if isinstance(factory, type) and issubclass(factory, LocalArtifactRepository):
        return _judged(factory, boundary)
    if scheme in ELSEWHERE | INDIRECT:
        return _not_local(cast("Factory", factory))
    return _unknown(scheme)


def _judged(kind: type[LocalArtifactRepository], boundary: Boundary) -> type[JudgedRepository]:
    names = {name for name in dir(kind) if not name.startswith("_")}
    if unknown := sorted(names - READS - JUDGED - THROUGH_JUDGED):
        raise InvalidInput(
            f"the artifact repository {kind.__name__} has methods that the gate does not know: {', '.join(unknown)}",
            expected="an MLflow version that this guardrail was made for",
        )
    return type(f"Judged{kind.__name__}", (JudgedRepository, kind), {"boundary": boundary})


def _not_local(factory: Factory) -> Factory:
    if isinstance(factory, type):
        return cast("Factory", factory)

    def build(artifact_uri: str, **options: Any) -> ArtifactRepository:
        repository = factory(artifact_uri, **options)
        if isinstance(repository, LocalArtifactRepository) and not isinstance(repository, JudgedRepository):
            raise _refused(artifact_uri)
        return repository

    return build


def _unknown(scheme: str) -> Factory:
    def build(artifact_uri: str, **_: Any) -> ArtifactRepository:
        error = EvidenceInvalid(
            f"the gate does not know where {artifact_uri!r} leads ({scheme} is a plug-in's scheme)",
            expected="a scheme of MLflow itself",
        )
        raise refusal(error)

    return build


def _forms(target: str) -> set[str]:
    """The path as it is, and as it would be after any number of percent-decodings."""
    forms = {target}
    while (decoded := unquote(target)) not in forms:
        forms.add(decoded)
        target = decoded
    return forms


def _refused(target: str) -> Exception:
    error = EvidenceInvalid(
        f"{target} leads into the sealed adapters, which nobody changes",
        expected="another location",
        next_step="promote a new adapter with `guardrail promote`",
    )
    return refusal(error)
