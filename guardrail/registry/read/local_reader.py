"""Reading a store that is no server (``sqlite:///…``, any database MLflow supports) through MLflow itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.registry.read.reader import Spec, StoredFile, StoredVersion, is_sealed, sealed_uri, too_large

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo


class LocalReader:
    """A reader around an open client (``store.client``)."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def version(self, spec: Spec) -> StoredVersion:
        """The version that ``spec`` names."""
        found = (
            self._client.get_model_version(spec.name, spec.version)
            if spec.version
            else self._client.get_model_version_by_alias(spec.name, str(spec.alias))
        )
        return StoredVersion(
            name=found.name,
            version=str(found.version),
            source=str(found.source),
            status=str(found.status),
            tags={str(key): str(value) for key, value in found.tags.items()},
        )

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The names in one directory."""
        if is_sealed(root):
            return self._listing_sealed(root, directory)
        return entries(self._client.list_logged_model_artifacts(root, directory or None))

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Copy one file."""
        uri = sealed_uri(root) if is_sealed(root) else str(self._client.get_logged_model(root).artifact_location)
        return fetch(uri, path, target, limit)

    def _listing_sealed(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return entries(get_artifact_repository(sealed_uri(root)).list_artifacts(directory or None))


def entries(found: Iterable[FileInfo]) -> tuple[StoredFile, ...]:
    """What MLflow says of files, in our terms."""
    return tuple(StoredFile(path=str(f.path), is_dir=bool(f.is_dir), size=int(f.file_size or 0)) for f in found)


def fetch(uri: str, path: str, target: Path, limit: int) -> int:
    """Copy one file from below an artifact location.

    Raises:
        EvidenceInvalid: it has more than ``limit`` bytes.
    """
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(download_artifacts(artifact_uri=f"{uri.rstrip('/')}/{path}", dst_path=folder))
        size = copy.stat().st_size
        if size > limit:
            raise too_large(path, limit)
        copy.rename(target)
    return size
