"""No file of the server's own lies where clients read and write: below the local artifacts' destination.

Whatever lies there MLflow's artifact proxy hands out and replaces: a shorter ledger, another trust file, the database.
Not covered: links that lie below the destination and lead out of it, and other storage than this machine's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from guardrail.errors import InvalidInput
from guardrail.evidence.keys.key_uris import parse_uri
from guardrail.gate import settings as config

FILES = {
    config.TRUST: "the trust file",
    config.LEDGER: "the ledger",
    config.LEDGER_HEAD: "the ledger's head",
    config.SERVER_PUBLIC_KEY: "the server's public key",
    config.WORK: f"the directory {config.WORK}",
    "MLFLOW_AUTH_CONFIG_PATH": "the settings of MLflow's users",
}
"""What a variable names."""
BESIDE = (".pending", ".statements")
"""Parts of the ledger beside it."""
STORES = ("_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_REGISTRY_STORE", "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE")
"""Where MLflow's workers find the addresses of their databases."""


@dataclass(frozen=True)
class Own:
    """A file or directory of the server's own, and what it is."""

    what: str
    path: Path


def require_outside(destination: Path | config.S3Bucket, owned: Iterable[Own]) -> None:
    """Refuse a local destination with one of these below it, by its own name or by where links lead.

    Raises:
        InvalidInput: the first that lies there.
    """
    if isinstance(destination, config.S3Bucket):
        return
    for own in owned:
        if _inside(own.path, destination):
            raise InvalidInput(
                f"{own.what} ({own.path}) lies below the artifacts' destination {destination}, "
                "which clients read and write",
                expected="everything of the server's own outside of it",
                next_step="move it to a directory that only the server uses, or give another --artifacts-destination",
            )


def own(environment: Mapping[str, str] = os.environ) -> Iterator[Own]:
    """What the environment of a worker names. Databases other than SQLite's are no files."""
    for name, what in FILES.items():
        if value := environment.get(name):
            yield Own(what, Path(value))
    ledger = Path(environment.get(config.LEDGER, ""))
    for suffix in BESIDE if ledger.name else ():
        yield Own("a part of the ledger", ledger.with_name(ledger.name + suffix))
    for value in filter(None, environment.get(config.ROOT_KEYS, "").split(os.pathsep)):
        yield Own("a root key", Path(value))
    key = parse_uri(environment.get(config.SERVER_KEY, ""))
    if key.scheme == "file" and key.rest:
        yield Own("the server's key", Path(key.rest))
    for name in STORES:
        yield from database(environment.get(name, ""))


def database(uri: str) -> Iterator[Own]:
    """The file of an SQLite database, if the address is one's."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri.removeprefix(config.SCHEME))
    except ArgumentError:  # a directory, or nothing
        return
    name = url.database or ""
    if url.get_backend_name() == "sqlite" and name and ":memory:" not in name:
        yield Own("the database", Path(unquote(urlsplit(name).path) if name.startswith("file:") else name))


def _inside(path: Path, destination: Path) -> bool:
    """Whether it is there or below, also where directories have other names (another case, a mount); in doubt, yes."""
    try:
        root = destination.resolve()
        forms = (path.parent.resolve() / path.name, path.resolve())
        return any(_same(place, root) for form in forms for place in (form, *form.parents))
    except (OSError, ValueError, RuntimeError):
        return True


def _same(place: Path, root: Path) -> bool:
    return place == root or (place.exists() and root.exists() and place.samefile(root))
