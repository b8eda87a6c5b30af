"""What every guarded artifact repository has in common: it judges where a write leads before it writes.

Not covered: what a target is and which targets are inside (``boundary_disk.py``, ``boundary_s3.py``).
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote

from guardrail.errors import EvidenceInvalid
from guardrail.gate.mlflow_errors import refusal


class Protected(Protocol):
    """Where only the server writes."""

    def holds(self, target: str) -> bool:
        """Whether writing to ``target`` could write into the tree; in doubt, yes."""

    def touches(self, target: str) -> bool:
        """Whether deleting ``target`` could delete in the tree: it lies inside, or around it."""


class Judging(ABC):
    """Goes before a repository class of MLflow; each method refuses, or does what that class does."""

    boundary: Protected

    @abstractmethod
    def target(self, artifact_path: str | None, file_name: str = "") -> str:
        """Where the repository would write, joined as it joins it."""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Judge, then write."""
        self._judge(artifact_path, local_file)
        self._next().log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Judge every file, then write."""
        for path in (Path(local_dir), *Path(local_dir).rglob("*")):
            self._judge(posixpath.join(artifact_path or "", path.relative_to(local_dir).as_posix()))
        self._next().log_artifacts(local_dir, artifact_path)

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Judge, then write."""
        self._judge(artifact_path, artifact_file_name)
        self._next().log_artifact_from_stream(stream, artifact_file_name, artifact_path)

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Judge, then write."""
        self._judge(artifact_path, artifact_file_name)
        await self._next().log_artifact_from_async_stream(chunks, artifact_file_name, artifact_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Judge, then delete; a directory around the tree is refused, too."""
        target = self.target(artifact_path)
        if self.boundary.touches(target):
            raise refused(target)
        self._next().delete_artifacts(artifact_path)

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> Any:
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
        """The class that was registered; only some have all of these methods."""
        return super()

    def _judge(self, artifact_path: str | None, file_name: str = "") -> None:
        target = self.target(artifact_path, file_name)
        if self.boundary.holds(target):
            raise refused(target)


def forms(target: str) -> set[str]:
    """The path as it is, and as it would be after any number of percent-decodings."""
    found = {target}
    while (decoded := unquote(target)) not in found:
        found.add(decoded)
        target = decoded
    return found


def refused(target: str) -> Exception:
    """The refusal of a location."""
    error = EvidenceInvalid(
        f"{target} leads into the sealed adapters, which nobody changes",
        expected="another location",
        next_step="promote a new adapter with `guardrail promote`",
    )
    return refusal(error)
