"""A local artifact repository with multipart and presigned uploads, as object storage has them.

A plug-in for tests, registered for ``file:`` on the stock server and on the gated one alike. The addresses that it
hands out are files: whoever holds one writes the bytes there, as one would PUT them into a bucket, behind the server.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

from mlflow.entities.multipart_upload import CreateMultipartUploadResponse, MultipartUploadCredential
from mlflow.entities.presigned_upload import CreatePresignedUploadResponse
from mlflow.store.artifact.artifact_repo import MultipartUploadMixin, PresignedUploadMixin
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository


class PartsRepository(LocalArtifactRepository, MultipartUploadMixin, PresignedUploadMixin):
    """Keeps parts in a temporary directory until they are put together."""

    def create_multipart_upload(
        self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
    ) -> CreateMultipartUploadResponse:
        """An address for each part."""
        upload = Path(tempfile.gettempdir()) / f"parts-{uuid.uuid4().hex}"
        upload.mkdir()
        parts = [MultipartUploadCredential(str(upload / str(n)), n, {}) for n in range(1, num_parts + 1)]
        return CreateMultipartUploadResponse(str(upload), parts)

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: list[Any], artifact_path: str | None = None
    ) -> None:
        """Put the parts together at their target."""
        target = self._target(f"{artifact_path or ''}/{Path(local_file).name}".lstrip("/"))
        found = sorted(Path(upload_id).iterdir(), key=lambda part: int(part.name))
        target.unlink(missing_ok=True)
        target.write_bytes(b"".join(part.read_bytes() for part in found))

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> None:
        """Parts are left to the temporary directory's owner."""

    def create_presigned_upload_url(self, artifact_path: str, expiration: int = 900) -> CreatePresignedUploadResponse:
        """The file itself."""
        return CreatePresignedUploadResponse(str(self._target(artifact_path)))

    def _target(self, artifact_path: str) -> Path:
        target = Path(self.artifact_dir) / artifact_path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target
