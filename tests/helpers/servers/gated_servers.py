"""A gated server and a stock one, as like as can be: same MLflow, same kind of database, same hostile environment.

Databases of their own at 127.0.0.1, artifacts on the disk or in moto's S3. Which of them a run has: ``matrix.py``.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import gate_bases
import pytest
from gate_trust import Person, acquainted, guarded_model, person, signed, trust
from matrix import ADMIN, Cell, execute
from moto_servers import S3, Remote
from repository import HELPERS, ROOT
from server_process import Command, free_port, started

from guardrail.evidence.digest import file_sha256
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.gate.settings import S3Bucket

GUARDED = (
    "guarded",
    "guarded-attacked",
    "commanded",
    "second",
    "proposed",
    "unborn",
    "blank",
    "twice",
    "waiting",
    "agreed",
    "rolled",
    "broken",
    "broken-waiting",
    "full",
    "revoked-seen",
)
APPROVED = ("waiting", "agreed", "broken-waiting")
"""Two persons must approve."""
NAMES = ("root", "decider", "server", "stranger", "first-approver", "second-approver")
HOSTILE = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
    "MLFLOW_ENABLE_WORKSPACES": "true",
}
"""What an operator may have set; stock servers run with it, the launcher must turn it off."""
USER, PASSWORD = "admin", "a long enough password"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    uri: str
    destination: Path
    log: Path
    cell: Cell
    gated: bool
    database: str = ""
    remote: Remote | None = None
    """Where the artifacts lie in the cells of object storage; ``destination`` is unused there."""
    group: int = 0
    """The process group of everything that serves."""

    @property
    def root(self) -> str:
        """The location of the artifacts."""
        return str(self.remote.place) if self.remote else self.destination.as_uri()

    def files(self, path: str) -> dict[str, str]:
        """Path to SHA-256 of every file below ``path`` in the destination."""
        return self.remote.files(path) if self.remote else bytes_of(self.destination / path)


@dataclass(frozen=True)
class People:
    """Who signs what."""

    root: Person
    decider: Person
    server: Person
    stranger: Person
    approvers: tuple[Person, ...]
    trust_file: Path

    @property
    def signers(self) -> dict[str, PrivateKey]:
        """Which key signs which stage."""
        trainer, decider = self.root.private, self.decider.private
        return {"data": trainer, "train": trainer, "evaluate": decider, "decide": decider}

    def trust(self, *more: str, version: int = 1, days: float = 30) -> bytes:
        """A signed trust file that guards the usual models and ``more``."""
        models = [guarded_model(name, approvals=2 if name in APPROVED else 0) for name in (*GUARDED, *more)]
        models += gate_bases.models()
        value = trust(
            self.root, self.decider, models, version=version, days=days, approvers=self.approvers, server=self.server
        )
        return signed(value, self.root)

    def write(self, content: bytes) -> None:
        """Replace the trust file in one step, as an operator should."""
        fresh = self.trust_file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.trust_file)


def people(directory: Path) -> People:
    """Keys and a valid trust file."""
    for name in NAMES:
        person(directory, name)
    found = known(directory)
    found.write(found.trust())
    return found


def known(directory: Path) -> People:
    """Those whose keys lie there already: another process made them."""
    root, decider, server, stranger, *approvers = (acquainted(directory, name) for name in NAMES)
    return People(root, decider, server, stranger, tuple(approvers), directory / "trust.dsse.json")


def plugin_path(directory: Path, *, parts: bool = True) -> Path:
    """A directory with the entry points of pyproject.toml, as an installation has them; and the tests' repository."""
    groups: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    if parts:
        groups["mlflow.artifact_repository"] = {"file": "parts_repository:PartsRepository"}
    info = directory / "plugins" / "guardrail_test_plugins-0.dist-info"
    info.mkdir(parents=True)
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guardrail-test-plugins\nVersion: 0\n")
    return info.parent


def remote(s3: S3 | None) -> Remote | None:
    """A bucket of its own."""
    if s3 is None:
        return None
    place = S3Bucket(f"b{uuid.uuid4().hex[:12]}", "ml/flow")
    s3.make(place.bucket)
    return Remote(s3, place)


def bytes_of(directory: Path) -> dict[str, str]:
    """Path to SHA-256 of every file."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in paths}


def environment(
    directory: Path,
    *,
    parts: bool = True,
    s3: S3 | None = None,
    default_permission: str = "READ",
    refusals: str = "1000",
) -> dict[str, str]:
    """What both servers inherit; so many ``refusals`` are answered in a second, where tests need not wait for them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GUARDRAIL_"))}
    paths = [str(plugin_path(directory, parts=parts)), str(ROOT), *HELPERS, os.environ.get("PYTHONPATH", "")]
    return {
        **kept,
        **HOSTILE,
        **(s3.environment | {"GUARDRAIL_WORK": str(directory)} if s3 else {}),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
        "GUARDRAIL_REFUSALS_PER_SECOND": refusals,
        "GUARDRAIL_OPEN_TICKETS": "1000",
        "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(directory, default_permission)),
    }


@contextmanager
def gated_server(
    directory: Path,
    cell: Cell,
    who: People,
    s3: S3 | None = None,
    *,
    workers: int = 1,
    default_permission: str = "READ",
    refusals: str = "1000",
) -> Iterator[Running]:
    """``guardrail server``; artifacts in a bucket of ``s3``, or on the disk. Users have the default permission."""
    with database(directory, cell) as store:
        port, destination, bucket = free_port(), directory / "artifacts", remote(s3)
        arguments = [
            sys.executable,
            "-m",
            "guardrail",
            "server",
            "--trust",
            str(who.trust_file),
            "--root-key",
            str(who.root.public_file),
            "--backend-store-uri",
            store,
            "--key",
            str(who.server.private_file),
            "--ledger",
            str(directory / "ledger" / "ledger"),
            "--artifacts-destination",
            str(bucket.place) if bucket else destination.as_uri(),
            "--port",
            str(port),
            "--workers",
            str(workers),
            "--app-name",
            cell.auth,
            *(["--gunicorn"] if cell.server == "gunicorn" else []),
        ]
        inherited = environment(directory, s3=s3, default_permission=default_permission, refusals=refusals)
        with started(Command(arguments, inherited), port, directory) as made:
            _hash_quickly(directory, cell)
            uri = f"http://127.0.0.1:{port}"
            yield Running(
                uri, destination, made.log, cell, gated=True, database=store, remote=bucket, group=made.process.pid
            )


@contextmanager
def stock_server(directory: Path, cell: Cell, *, workspaces: bool = False, s3: S3 | None = None) -> Iterator[Running]:
    """``mlflow server`` with everything on; workspaces only where asked, for they forbid other things."""
    with database(directory, cell) as store:
        port, destination, bucket = free_port(), directory / "artifacts", remote(s3)
        arguments = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            store,
            "--artifacts-destination",
            str(bucket.place) if bucket else destination.as_uri(),
            "--enable-workspaces" if workspaces else "--disable-workspaces",
            *(["--gunicorn-opts", "--log-level warning"] if cell.server == "gunicorn" else []),
            *(["--app-name", "basic-auth"] if cell.auth == "basic-auth" else []),
        ]
        jobs = cell.server == "uvicorn" and not workspaces  # elsewhere no attempt needs the nine processes
        env = environment(directory, s3=s3) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": str(jobs).lower()}
        with started(Command(arguments, env), port, directory) as made:
            _hash_quickly(directory, cell)
            uri = f"http://127.0.0.1:{port}"
            yield Running(
                uri, destination, made.log, cell, gated=False, database=store, remote=bucket, group=made.process.pid
            )


@contextmanager
def database(directory: Path, cell: Cell) -> Iterator[str]:
    """An empty database of its own; gone afterwards."""
    name = f"guardrail_{uuid.uuid4().hex[:12]}"
    if cell.database == "sqlite":
        yield f"sqlite:///{directory / 'mlflow.db'}"
        return
    admin = ADMIN[cell.database]
    collated = f" CHARACTER SET utf8mb4 COLLATE {cell.collation}" if cell.database == "mysql" else ""
    execute(admin, f"CREATE DATABASE {name}{collated}")
    try:
        yield admin.rpartition("/")[0] + f"/{name}"
    finally:
        execute(admin, f"DROP DATABASE {name}" + (" WITH (FORCE)" if cell.database == "postgresql" else ""))


@contextmanager
def pointing(running: Running) -> Iterator[None]:
    """MLflow's process-wide addresses, put back afterwards; its client repeats nothing meanwhile."""
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", running.uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr(tracking, "_tracking_uri", running.uri)
        patch.setattr(registry, "_registry_uri", running.uri)
        yield


def _auth_config(directory: Path, default_permission: str) -> Path:
    path = directory / "auth.ini"
    path.write_text(
        f"[mlflow]\ndefault_permission = {default_permission}\ndatabase_uri = sqlite:///{directory / 'auth.db'}\n"
        f"admin_username = {USER}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return path


def _hash_quickly(directory: Path, cell: Cell) -> None:
    """The administrator's password with a cheap hash: MLflow hashes at every request, and spends 0.1 s on it."""
    if cell.auth != "basic-auth":
        return
    from werkzeug.security import generate_password_hash

    cheap = generate_password_hash(PASSWORD, method="pbkdf2:sha256:1")
    with closing(sqlite3.connect(directory / "auth.db", timeout=30)) as users, users:
        changed = users.execute("UPDATE users SET password_hash = ? WHERE username = ?", (cheap, USER))
        assert changed.rowcount == 1
