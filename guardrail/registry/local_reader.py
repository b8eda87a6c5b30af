"""Reading a store that is no server (``sqlite:///…``, any database MLflow supports) through MLflow itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.registry.reader import Entry, Spec, StoredVersion, too_large

if TYPE_CHECKING:
    from mlflow import MlflowClient


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

    def listing(self, model_id: str, directory: str) -> tuple[Entry, ...]:
        """The names in one directory."""
        found = self._client.list_logged_model_artifacts(model_id, directory or None)
        return tuple(Entry(path=str(f.path), is_dir=bool(f.is_dir), size=int(f.file_size or 0)) for f in found)

    def fetch(self, model_id: str, path: str, target: Path, limit: int) -> int:
        """Copy one file."""
        from mlflow.artifacts import download_artifacts

        root = self._client.get_logged_model(model_id).artifact_location.rstrip("/")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            copy = Path(download_artifacts(artifact_uri=f"{root}/{path}", dst_path=folder))
            size = copy.stat().st_size
            if size > limit:
                raise too_large(path, limit)
            copy.rename(target)
        return size
