"""Reading what a client proposes: a logged model's files, through the same repositories that serve them.

The location was named by a client, so names are checked and sizes bounded by
``guardrail.registry.read.reader.download``. The evidence is read first, and its signature before all else: what nobody
signed who may costs one small file.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.errors import EvidenceInvalid, InternalError
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE, NAME
from guardrail.evidence.envelope import LARGEST, verify
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.registry.read.reader import (
    CHUNK,
    MODEL_SOURCE,
    Spec,
    StoredFile,
    StoredVersion,
    download,
    too_large,
    walk,
)
from guardrail.registry.verify.evidence_checks import Outline

MOST_RECORDS = 16
"""More files than evidence ever has beside its envelope."""

if TYPE_CHECKING:
    from mlflow.entities.logged_model import LoggedModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def logged_model(source: str) -> LoggedModel:
    """The logged model that a client proposes as ``source``.

    Raises:
        EvidenceInvalid: another kind of source.
    """
    from mlflow.server.handlers import _get_tracking_store

    match = MODEL_SOURCE.fullmatch(source)
    if match is None:
        raise EvidenceInvalid(
            f"the proposed source is {source[:200]!r}",
            expected="a logged model (models:/m-…) with its evidence",
            next_step="promote with `guardrail promote`",
        )
    return _get_tracking_store().get_logged_model(match[1])


@dataclass(frozen=True)
class ProposalOrigin:
    """The run that a logged model came from, and its experiment; empty where somebody has deleted the model since."""

    experiment_id: str = ""
    run_id: str = ""


def origin(model_id: str) -> ProposalOrigin:
    """Where a logged model came from; that somebody deleted it changes nothing else."""
    from mlflow.exceptions import MlflowException

    try:
        found = logged_model(f"models:/{model_id}")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return ProposalOrigin()
        raise
    return ProposalOrigin(str(found.experiment_id or ""), str(found.source_run_id or ""))


def outline(model: LoggedModel, directory: Path, public_keys: Sequence[PublicKey]) -> Outline:
    """Copy the evidence of the logged model below an empty ``directory``, and list its other files.

    Raises:
        EvidenceInvalid: no evidence that one of these keys signed, a name that could leave the directory, too many
            files or bytes.
    """
    reader = _reader(str(model.artifact_location))
    entries = {entry.path: entry for entry in reader.listing("", EVIDENCE)}
    envelope = entries.pop(f"{EVIDENCE}/{ENVELOPE}", None)
    if envelope is None:
        raise EvidenceInvalid(f"there is no {EVIDENCE}/{ENVELOPE}", expected="evidence beside the adapter")
    (directory / EVIDENCE).mkdir()
    verify(_small(reader, envelope, directory).read_bytes(), public_keys)
    if len(entries) > MOST_RECORDS:
        raise EvidenceInvalid(f"the evidence holds {len(entries)} files", expected=f"at most {MOST_RECORDS}")
    for entry in entries.values():
        _small(reader, entry, directory)
    return Outline(directory, _sizes(reader))


def fetch(model: LoggedModel, directory: Path, most: int) -> None:
    """Copy every file of the logged model below an empty ``directory``; ``most`` bytes at most.

    Raises:
        EvidenceInvalid: a name that could leave the directory, too many files or bytes.
    """
    download(_reader(str(model.artifact_location)), "", directory, most)


def most_bytes(outline: Outline) -> int:
    """The most bytes that a logged model of this outline may turn out to have."""
    return sum(outline.sizes.values()) + (MOST_RECORDS + 1) * LARGEST


def _small(reader: RepositoryReader, entry: StoredFile, directory: Path) -> Path:
    """One file of the evidence."""
    if not NAME.fullmatch(entry.path) or entry.is_dir:
        raise EvidenceInvalid(f"the evidence holds {entry.path!r}", expected="only the files that were promoted")
    reader.fetch("", entry.path, directory / entry.path, LARGEST)
    return directory / entry.path


def _sizes(reader: RepositoryReader) -> dict[str, int]:
    """The bytes of every file outside the evidence."""
    found: dict[str, int] = {}
    for entry in walk(reader, ""):
        if not entry.path.startswith(f"{EVIDENCE}/"):
            found[entry.path] = entry.size
    return found


class RepositoryReader:
    """A reader (``guardrail.registry.read.reader``) of one directory of an artifact repository."""

    def __init__(self, repository: ArtifactRepository, prefix: str) -> None:
        self._repository, self._prefix = repository, prefix.strip("/")
        self._sizes: dict[str, int] = {}

    def version(self, spec: Spec) -> StoredVersion:
        """A directory holds no versions: whoever asks for one has mistaken it for a registry."""
        raise InternalError(f"a directory of files was asked for the version {spec}")

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The names in one directory; the prefix is the only root."""
        del root
        found = self._repository.list_artifacts(posixpath.join(self._prefix, directory) or None)
        entries = tuple(
            StoredFile(
                path=posixpath.relpath(f.path, self._prefix or "."), is_dir=bool(f.is_dir), size=int(f.file_size or 0)
            )
            for f in found
        )
        self._sizes |= {entry.path: entry.size for entry in entries}
        return entries

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Copy one file; a symbolic link is refused, because the server would follow it anywhere."""
        del root
        if self._sizes.get(path, 0) > limit:  # before it fills the disk: object storage has no other way to be asked
            raise too_large(path, limit)
        inside = posixpath.join(self._prefix, path)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            local = self._repository.get_local_path(inside) or self._repository.download_artifacts(inside, folder)
            return _copy(Path(local), target, limit, path)


def _copy(source: Path, target: Path, limit: int, name: str) -> int:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise EvidenceInvalid(f"the proposed file {name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream, target.open("xb") as copy:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise EvidenceInvalid(f"the proposed file {name} is a special file", expected="regular files only")
        if state.st_size > limit:
            raise too_large(name, limit)
        shutil.copyfileobj(stream, copy, CHUNK)
        return copy.tell()


def _reader(location: str) -> RepositoryReader:
    from mlflow.server import handlers

    if handlers._is_servable_proxied_run_artifact_root(location):
        path = handlers._get_proxied_run_artifact_destination_path(proxied_artifact_root=location)
        return RepositoryReader(handlers._get_artifact_repo_mlflow_artifacts(), path)
    return RepositoryReader(handlers._get_artifact_repository_for_uri(location), "")
