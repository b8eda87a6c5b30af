"""How verification reads a registry: one small interface, so that a server needs no MLflow installed here.

A registry is not trusted: names are checked before they become paths, sizes are bounded, and every file is fetched,
also those nobody expects. Not covered: what the files say (``checks.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.bundle import NAME
from guardrail.records import Frozen
from guardrail.registry.tags import MODEL_ID

MOST_FILES = 1000
MOST_BYTES = 64 << 30
DEEPEST = 8
CHUNK = 1 << 20
MODEL_SOURCE = re.compile(r"models:/(m-[0-9a-zA-Z]+)")
SEALED_SOURCE = re.compile(r"mlflow-artifacts:/(sealed/[0-9a-f]{64})")


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


class Entry(Frozen):
    """One name in a directory of a version's files; ``path`` is relative to their root."""

    path: str
    is_dir: bool
    size: int


class Files(Protocol):
    """Files that lie somewhere in MLflow, below a root."""

    def listing(self, root: str, directory: str) -> tuple[Entry, ...]:
        """The names in one directory below ``StoredVersion.root`` (``""`` is the root itself)."""

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        """Write one file to ``target`` and return its size; more than ``limit`` bytes are an error."""


class Reader(Files, Protocol):
    """What verification asks of a registry."""

    def version(self, spec: Spec) -> StoredVersion:
        """The version that ``spec`` names.

        Raises:
            InvalidInput: there is none.
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


def download(reader: Files, root: str, directory: Path, most: int = MOST_BYTES) -> None:
    """Every file of a version, below an empty ``directory``; ``most`` bytes at most.

    Raises:
        EvidenceInvalid: a name that could leave the directory, too many files or bytes.
        ServiceUnavailable: the registry does not answer, or the disk is full.
    """
    left = most
    for count, entry in enumerate(walk(reader, root)):
        if count >= MOST_FILES:
            raise EvidenceInvalid(f"the model holds more than {MOST_FILES} files")
        if entry.size > left:
            raise too_large(entry.path, left)
        target = directory / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        left -= reader.fetch(root, entry.path, target, left)


def too_large(path: str, limit: int) -> EvidenceInvalid:
    """A file beyond what verification is willing to fetch."""
    return EvidenceInvalid(f"{path} is larger than the {limit} bytes that are left of the limit")


def walk(reader: Files, root: str, directory: str = "", depth: int = 0) -> Iterator[Entry]:
    """Every file below ``root``.

    Raises:
        EvidenceInvalid: a name that could leave the directory, or directories nested too deep.
    """
    if depth > DEEPEST:
        raise EvidenceInvalid(f"the model's directories are nested more than {DEEPEST} deep")
    for entry in reader.listing(root, directory):
        parent, _, name = entry.path.rpartition("/")
        if parent != directory or not name or not NAME.fullmatch(entry.path):
            raise EvidenceInvalid(
                f"the model holds a file called {entry.path!r}", expected="only the files that were promoted"
            )
        if entry.is_dir:
            yield from walk(reader, root, entry.path, depth + 1)
        else:
            yield entry
