"""A gated server and a stock one, as like as can be: same MLflow, same kind of database, same hostile environment.

A cell of the matrix is DATABASE-SERVER-AUTH-ARTIFACTS; CI runs the first, ``GUARDRAIL_CAMPAIGN=1`` all of them, and
``GUARDRAIL_CELLS=sqlite-uvicorn-plain-s3`` those that it names (artifacts are local if it does not). Databases other
than SQLite are expected at 127.0.0.1 (PostgreSQL 5432, MariaDB 3306), with their drivers on the path; S3 is moto.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from gate_trust import Person, guarded_model, person, signed, trust
from moto_servers import S3, Remote

from guardrail.evidence.digest import file_sha256
from guardrail.evidence.keys import PrivateKey
from guardrail.registry.server.settings import Bucket

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
DATABASES, SERVERS, AUTHS = ("sqlite", "postgresql", "mysql"), ("uvicorn", "gunicorn"), ("plain", "basic-auth")
ARTIFACTS = ("local", "s3")
GUARDED = ("guarded", "guarded-attacked", "commanded", "second", "unborn", "blank", "twice", "waiting", "rolled",
           "broken", "broken-waiting", "handed")  # fmt: skip
NAMES = ("root", "decider", "server", "stranger", "first-approver", "second-approver")
HOSTILE = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
    "MLFLOW_ENABLE_WORKSPACES": "true",
}
"""What an operator may have set; stock servers run with it, the launcher must turn it off."""
USER, PASSWORD = "admin", "a long enough password"


@dataclass(frozen=True)
class Cell:
    """One place of the matrix."""

    database: str = "sqlite"
    server: str = "uvicorn"
    auth: str = "plain"
    artifacts: str = "local"

    def __str__(self) -> str:
        return f"{self.database}-{self.server}-{self.auth}-{self.artifacts}"

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of a name, with or without the artifacts."""
        head, _, last = name.rpartition("-")
        head, artifacts = (head, last) if last in ARTIFACTS else (name, ARTIFACTS[0])
        database, server, auth = head.split("-", 2)
        return cls(database, server, auth, artifacts)


def cells() -> list[Cell]:
    """The places that this run visits."""
    if named := os.environ.get("GUARDRAIL_CELLS"):
        return [Cell.named(name) for name in named.split(",")]
    if os.environ.get("GUARDRAIL_CAMPAIGN"):
        return [Cell(d, s, a, f) for d in DATABASES for s in SERVERS for a in AUTHS for f in ARTIFACTS]
    return [Cell()]


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
        models = [guarded_model(name, approvals=2 if name.endswith("waiting") else 0) for name in (*GUARDED, *more)]
        value = trust(self.root, self.decider, models, version=version, days=days, approvers=self.approvers,
                      server=self.server)  # fmt: skip
        return signed(value, self.root)

    def write(self, content: bytes) -> None:
        """Replace the trust file in one step, as an operator should."""
        fresh = self.trust_file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.trust_file)


def people(directory: Path) -> People:
    """Keys and a valid trust file."""
    root, decider, server, stranger, *approvers = (person(directory, name) for name in NAMES)
    found = People(root, decider, server, stranger, tuple(approvers), directory / "trust.dsse.json")
    found.write(found.trust())
    return found


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
    place = Bucket(f"b{uuid.uuid4().hex[:12]}", "ml/flow")
    s3.make(place.bucket)
    return Remote(s3, place)


def bytes_of(directory: Path) -> dict[str, str]:
    """Path to SHA-256 of every file."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in paths}


def environment(directory: Path, *, parts: bool = True, s3: S3 | None = None) -> dict[str, str]:
    """What both servers inherit."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GUARDRAIL_"))}
    paths = [str(plugin_path(directory, parts=parts)), str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        **kept,
        **HOSTILE,
        **(s3.environment | {"GUARDRAIL_WORK": str(directory)} if s3 else {}),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
        "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(directory)),
    }


@dataclass
class Command:
    """A server's command line and environment, before it is started."""

    arguments: list[str]
    env: dict[str, str] = field(default_factory=dict)


@contextmanager
def gated_server(directory: Path, cell: Cell, who: People, s3: S3 | None = None) -> Iterator[Running]:
    """``guardrail server``; artifacts in a bucket of ``s3``, or on the disk."""
    with database(directory, cell) as uri:
        port, destination, bucket = free_port(), directory / "artifacts", remote(s3)
        arguments = [
            sys.executable, "-m", "guardrail", "server", "--trust", str(who.trust_file),
            "--root-key", str(who.root.public_file), "--backend-store-uri", uri,
            "--key", str(who.server.private_file), "--ledger", str(directory / "ledger" / "ledger"),
            "--artifacts-destination", str(bucket.place) if bucket else destination.as_uri(),
            "--port", str(port), "--workers", "1",
            "--app-name", cell.auth, *(["--gunicorn"] if cell.server == "gunicorn" else []),
        ]  # fmt: skip
        with started(Command(arguments, environment(directory, s3=s3)), port, directory) as log:
            yield Running(f"http://127.0.0.1:{port}", destination, log, cell, gated=True, database=uri, remote=bucket)


@contextmanager
def stock_server(directory: Path, cell: Cell, *, workspaces: bool = False, s3: S3 | None = None) -> Iterator[Running]:
    """``mlflow server`` with everything on; workspaces only where asked, for they forbid other things."""
    with database(directory, cell) as uri:
        port, destination, bucket = free_port(), directory / "artifacts", remote(s3)
        arguments = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", uri,
            "--artifacts-destination", str(bucket.place) if bucket else destination.as_uri(),
            "--enable-workspaces" if workspaces else "--disable-workspaces",
            *(["--gunicorn-opts", "--log-level warning"] if cell.server == "gunicorn" else []),
            *(["--app-name", "basic-auth"] if cell.auth == "basic-auth" else []),
        ]  # fmt: skip
        with started(Command(arguments, environment(directory, s3=s3)), port, directory) as log:
            yield Running(f"http://127.0.0.1:{port}", destination, log, cell, gated=False, database=uri, remote=bucket)


@contextmanager
def started(command: Command, port: int, directory: Path) -> Iterator[Path]:
    """The process, until it answers; its whole group ends with the block."""
    log = directory / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command.arguments, cwd=directory, stdout=stream, stderr=stream, env=command.env,
                                   start_new_session=True)  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield log
    finally:
        end(process)


@contextmanager
def database(directory: Path, cell: Cell) -> Iterator[str]:
    """An empty database of its own; gone afterwards."""
    name = f"guardrail_{uuid.uuid4().hex[:12]}"
    if cell.database == "sqlite":
        yield f"sqlite:///{directory / 'mlflow.db'}"
        return
    admin = {
        "postgresql": "postgresql+psycopg2://postgres@127.0.0.1:5432/postgres",
        "mysql": "mysql+pymysql://root@127.0.0.1:3306/",
    }
    _execute(admin[cell.database], f"CREATE DATABASE {name}")
    try:
        yield admin[cell.database].rpartition("/")[0] + f"/{name}"
    finally:
        _execute(
            admin[cell.database], f"DROP DATABASE {name}" + (" WITH (FORCE)" if cell.database == "postgresql" else "")
        )


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


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=10)


def _wait(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{uri}/health", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.3)
    pytest.fail(f"the server did not start:\n{log.read_text()[-6000:]}")


def _auth_config(directory: Path) -> Path:
    path = directory / "auth.ini"
    path.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory / 'auth.db'}\n"
        f"admin_username = {USER}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return path


def _execute(uri: str, statement: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
