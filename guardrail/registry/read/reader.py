"""How verification reads a registry: one small interface, so that a server needs no MLflow installed here.

A registry is not trusted: names are checked before they become paths, sizes are bounded, and every file is fetched,
also those nobody expects. Not covered: what the files say (``registry/verify/evidence_checks.py``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import NAME
from guardrail.records import Frozen
from guardrail.registry.http.limits import AnswerLimits, limits, raised_by
from guardrail.registry.mlflow.tags import MODEL_ID

DEEPEST = 8
"""Directories within directories."""
LONGEST_PATH, LONGEST_NAME = 1000, 250
"""Characters (file systems take 4,096 and 255 bytes, with the directory that the files are put in)."""
SHOWN = 200
CHUNK = 1 << 20
MODEL_SOURCE = re.compile(r"models:/(m-[0-9a-zA-Z]+)")
SEALED_SOURCE = re.compile(r"mlflow-artifacts:/(sealed/[0-9a-f]{64})")


class UnresolvedError(EvidenceInvalid):
    """A gated server says that what an alias points at has expired or was revoked."""


class Spec(Frozen):
    """``NAME/VERSION`` or ``NAME@ALIAS``."""

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else f"{self.name}@{self.alias}"


class StoredVersion(Frozen):
    """What a registry says of a model version."""

    name: str
    version: str
    source: str
    status: str
    tags: dict[str, str]

    @property
    def root(self) -> str:
        """Where the files lie: the id of a logged model, or ``sealed/DIGEST`` on a server that seals.

        Raises:
            EvidenceInvalid: the version points elsewhere.
        """
        match = MODEL_SOURCE.fullmatch(self.source) or SEALED_SOURCE.fullmatch(self.source)
        if match is None:
            raise EvidenceInvalid(
                f"the version's source is {self.source!r}", expected="a logged model (models:/m-…) or a sealed adapter"
            )
        return match[1]

    @property
    def model_id(self) -> str:
        """The logged model that was promoted; of a sealed adapter only its tag says which."""
        return self.tags.get(MODEL_ID, "") if is_sealed(self.root) else self.root


class StoredFile(Frozen):
    """One name in a directory of a version's files; ``path`` is relative to their root."""

    path: str
    is_dir: bool
    size: int


class Files(Protocol):
    """Files that lie somewhere in MLflow, below a root."""

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        """The names in one directory below ``StoredVersion.root`` (``""`` is the root itself)."""

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Write one file to ``target`` and return its size; more than ``limit`` bytes are an error."""


class Reader(Files, Protocol):
    """What verification asks of a registry."""

    def version(self, spec: Spec) -> StoredVersion:
        """The version that ``spec`` names.

        Raises:
            InvalidInput: there is none.
            UnresolvedError: it may not be handed out any more.
            ServiceUnavailable: the registry does not answer.
        """


def sealed_uri(root: str) -> str:
    """The location of a sealed adapter: read through the server's artifact proxy."""
    return f"mlflow-artifacts:/{root}"


def is_sealed(root: str) -> bool:
    """Whether a root is a sealed adapter rather than a logged model."""
    return root.startswith("sealed/")


def parse_spec(text: str) -> Spec:
    """Read ``NAME/VERSION`` or ``NAME@ALIAS``.

    Raises:
        InvalidInput: it is neither.
    """
    name, slash, version = text.rpartition("/")
    if slash and name and "/" not in name and version.isascii() and version.isdigit():
        return Spec(name=name, version=version)
    name, at, alias = text.rpartition("@")
    if not slash and at and name and re.fullmatch(r"[A-Za-z0-9_-]+", alias):
        return Spec(name=name, alias=alias)
    raise InvalidInput(f"{text!r} names no model version", expected="NAME/VERSION or NAME@ALIAS")


def download(reader: Files, root: str, directory: Path, most: int | None = None) -> None:
    """Every file of a version, below an empty ``directory``; ``most`` bytes at most (without it, as the limits say).

    Everything is listed before anything is fetched; no file may then be larger than the listing said.

    Raises:
        EvidenceInvalid: a name that could leave the directory, too many files or bytes.
        ServiceUnavailable: the registry does not answer, or the disk is too full.
    """
    entries = tuple(walk(reader, root))
    _require_room(entries, limits().bytes if most is None else most, directory)
    for entry in entries:
        target = directory / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        reader.fetch(root, entry.path, target, entry.size)


def too_large(path: str, limit: int) -> EvidenceInvalid:
    """A file beyond what verification is willing to fetch."""
    return EvidenceInvalid(
        f"{path[:SHOWN]} is larger than its limit of {limit} bytes", expected="no more than the registry listed"
    )


def walk(reader: Files, root: str, directory: str = "") -> Iterator[StoredFile]:
    """Every file below ``directory`` of ``root``.

    Raises:
        EvidenceInvalid: a name that could leave the directory; directories nested too deep; too many of them, or files.
    """
    yield from _Walk(reader, root, limits()).below(directory, 0)


@dataclass
class _Walk:
    """One look at everything below a root, and what was found so far."""

    reader: Files
    root: str
    most: AnswerLimits
    files: int = 0
    directories: int = 0
    names: set[str] = field(default_factory=set)

    def below(self, directory: str, depth: int) -> Iterator[StoredFile]:
        """Every file in a directory and in those below it."""
        if depth > DEEPEST:
            raise EvidenceInvalid(f"the model's directories are nested more than {DEEPEST} deep")
        for entry in self.reader.listing(self.root, directory):
            self._require_name(entry, directory)
            self._count(entry)
            if entry.is_dir:
                yield from self.below(entry.path, depth + 1)
            else:
                yield entry

    def _require_name(self, entry: StoredFile, directory: str) -> None:
        parent, _, name = entry.path.rpartition("/")
        long = len(entry.path) > LONGEST_PATH or len(name) > LONGEST_NAME
        if parent != directory or not name or long or not NAME.fullmatch(entry.path):
            raise EvidenceInvalid(
                f"the model holds a file called {entry.path[:SHOWN]!r}", expected="only the files that were promoted"
            )
        if entry.path in self.names:
            raise EvidenceInvalid(f"the model holds {entry.path[:SHOWN]!r} twice", expected="every file once")
        self.names.add(entry.path)

    def _count(self, entry: StoredFile) -> None:
        self.files, self.directories = self.files + (not entry.is_dir), self.directories + entry.is_dir
        if self.files > self.most.files:
            raise EvidenceInvalid(f"the model holds more than {self.most.files} files", next_step=raised_by("files"))
        if self.directories > self.most.directories:
            raise EvidenceInvalid(
                f"the model holds more than {self.most.directories} directories", next_step=raised_by("directories")
            )


def _require_room(entries: tuple[StoredFile, ...], most: int, directory: Path) -> None:
    """Refuse before anything is written what is too large, or would fill the disk."""
    size = sum(entry.size for entry in entries)
    if size > most:
        raise EvidenceInvalid(
            f"the model's files are larger than {most} bytes in sum", expected="less", next_step=raised_by("bytes")
        )
    free = shutil.disk_usage(directory).free
    if size > free:
        raise ServiceUnavailable(
            f"the registry lists {size} bytes of files, and {free} are free at {directory}",
            next_step="free space, or set TMPDIR; if no adapter of this size was promoted, look at the registry",
        )
