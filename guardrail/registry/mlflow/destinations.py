"""Where an upload goes: MLflow lets whoever makes an experiment say where its artifacts lie, and every client obeys.

Whoever was first to make the experiment ``guardrail`` would receive every adapter with its evidence at a place of their
own, written with the promoter's credentials. So a location is judged before anything is sent, and what was judged is
what is written to. A server's artifacts go through that server, a SQLite store's lie beside it; any other place must be
named by the user, who may have an MLflow that keeps artifacts in S3.
Not covered: reading (``registry/read/rest_reader.py`` reads through the server, wherever it keeps the bytes).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.registry.http.address import redacted
from guardrail.registry.mlflow.mlflow_client import sqlite_path

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

VARIABLE = "GUARDRAIL_ARTIFACT_LOCATION"
OPTION = "--artifact-location"
URI = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.-]*):(?://(?P<authority>[^/]*))?)?(?P<path>/.*)")
"""A scheme in small letters, an authority, an absolute path."""
ODD = re.compile(r"[%?#\\\s\x00-\x1f\x7f]")
"""What one library may read otherwise than another."""
SHOWN = 300


@dataclass(frozen=True)
class ArtifactPlace:
    """A location in its parts. A path on this machine has the scheme ``file``."""

    scheme: str
    authority: str
    path: str

    def holds(self, other: ArtifactPlace) -> bool:
        """Whether ``other`` is this place or below it."""
        if (self.scheme, self.authority) != (other.scheme, other.authority):
            return False
        if self.scheme == "file":
            return Path(other.path).is_relative_to(self.path)
        root = self.path.rstrip("/")
        return other.path.rstrip("/") == root or other.path.startswith(f"{root}/")


@dataclass(frozen=True)
class Destinations:
    """Where uploads of one command may go: to the store's own place, and to the one that the user named."""

    tracking_uri: str
    named: str = ""

    def __post_init__(self) -> None:
        if self.named and parse(self.named) is None:
            raise InvalidInput(
                f"{redacted(self.named)[:SHOWN]!a} cannot be an artifact location",
                expected="SCHEME://AUTHORITY/PATH or an absolute path, without %, ?, #, dots between slashes",
                next_step=f"correct {OPTION} or ${VARIABLE}",
            )

    def require(self, location: str) -> None:
        """Refuse a location that the store names, unless it may be written to.

        Raises:
            EvidenceInvalid: it may not.
        """
        place = parse(location)
        if place is None or not any(own.holds(place) for own in self._own()):
            raise EvidenceInvalid(
                f"MLflow at {redacted(self.tracking_uri)} says that artifacts go to {redacted(location)[:SHOWN]!a}",
                expected=f"{self._expected()}; nothing was sent",
                next_step="whoever made the experiment chose that place. If you trust it, name it by "
                f"{OPTION} PREFIX or {VARIABLE}; else have the experiment renamed away, and promote again",
            )

    def repository(self, location: str) -> ArtifactRepository:
        """MLflow's repository of this location, after :meth:`require`.

        Raises:
            EvidenceInvalid: see there.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.require(location)
        return get_artifact_repository(location, tracking_uri=self.tracking_uri)

    def _own(self) -> tuple[ArtifactPlace, ...]:
        named = parse(self.named) if self.named else None
        return (*_of_store(self.tracking_uri), *([named] if named else []))

    def _expected(self) -> str:
        own = " or ".join(f"{p.scheme}:{'//' if p.authority else ''}{p.authority}{p.path}" for p in self._own())
        return own or "a place that you name"


def destinations(tracking_uri: str, named: str | None = None) -> Destinations:
    """Where this command may upload to; ``named`` by the user, else by the environment.

    Raises:
        InvalidInput: what was named cannot be a location.
    """
    return Destinations(tracking_uri, os.environ.get(VARIABLE, "") if named is None else named)


def parse(location: str) -> ArtifactPlace | None:
    """A location's parts; None where it could be read in more than one way, or leads up, or nowhere."""
    found = URI.fullmatch(location)
    if found is None:
        return None
    scheme, authority, path = found["scheme"] or "", found["authority"] or "", found["path"]
    if scheme in ("", "file"):
        return _local(path) if not authority and not re.search(r"[?#\\\x00-\x1f\x7f]", path) else None
    steps = path.strip("/").split("/")
    if ODD.search(location) or path.startswith("//") or (path.strip("/") and not _straight(steps)):
        return None
    return ArtifactPlace(scheme, authority, path)


def _local(path: str) -> ArtifactPlace | None:
    """As the operating system resolves it; MLflow decodes a ``file:`` address once, and a path may hold spaces."""
    decoded = unquote(path)
    if unquote(decoded) != decoded or not _straight(decoded.strip("/").split("/")):
        return None
    try:
        return ArtifactPlace("file", "", str(Path(decoded).resolve()))
    except (OSError, ValueError, RuntimeError):
        return None


def _straight(steps: list[str]) -> bool:
    return not {"", ".", ".."} & set(steps)


def _of_store(tracking_uri: str) -> tuple[ArtifactPlace, ...]:
    """What a store's own place is, whatever its experiments say."""
    if tracking_uri.startswith(("http://", "https://")):
        host = urlsplit(tracking_uri).netloc.rpartition("@")[2]
        return ArtifactPlace("mlflow-artifacts", "", "/"), ArtifactPlace("mlflow-artifacts", host, "/")
    if tracking_uri.startswith("sqlite:///"):
        return (ArtifactPlace("file", "", str(sqlite_path(tracking_uri).resolve().parent / "mlartifacts")),)
    return tuple(ArtifactPlace("file", "", str(Path.cwd().resolve() / name)) for name in ("mlruns", "mlartifacts"))
