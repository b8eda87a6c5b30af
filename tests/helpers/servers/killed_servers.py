"""Server processes that die at a chosen step: real routes over real HTTP, real files, a real database, a real SIGKILL.

Not a test file. Every process is forked from one that has imported MLflow (``multiprocessing``'s fork server) and sets
the environment that MLflow gives its workers. What a server does to disk or database is counted as it does it: each
fsync, rename, removal, directory, change of mode, and each commit that wrote. The process kills itself right before
the chosen one; between two of them nothing lasting happens, so these are all the moments that differ.
Not covered: what a machine loses that loses its power (only one torn line of the ledger).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gated_servers import People, known

from guardrail.registry.gate.client import GateClient

if TYPE_CHECKING:
    from guardrail.gate.registrar import Registrar

PRELOADED = [
    "aiohttp",
    "alembic.command",
    "mlflow.metrics",
    "mlflow.server.fastapi_app",
    "mlflow.server.handlers",
    "mlflow.server.graphql.graphql_schema_extensions",
    "mlflow.store.tracking.sqlalchemy_store",
    "pytest",
    "werkzeug.serving",
    "guardrail.gate.store.gated_store",
    "guardrail.gate.app.routes",
    "kill_work",
    "guardrail.gate.sealed.boundary_disk",
    "guardrail.registry.verify.verify",
    "copied_databases",
]
WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+[`\"]?(\w+)", re.IGNORECASE)
VARIABLE = re.compile(r"[0-9a-f]{32,}|m-[0-9a-f]{32}")
FOLDER = re.compile(r"(/tmp)\w{8}(?=/|$)")
TEMPORARY = re.compile(r"(^|/)\.(ledger\.\w+|[*]\.dsse\.json)\.\w{8}$")


@dataclass(frozen=True)
class Place:
    """Where one server keeps everything, and whose keys count."""

    directory: Path
    database: str
    keys: Path

    @property
    def people(self) -> People:
        return known(self.keys)

    @property
    def ledger(self) -> Path:
        """Its head is beside it."""
        return self.directory / "ledger" / "ledger"

    @property
    def head(self) -> Path:
        return self.directory / "ledger" / "ledger.head"

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"


@dataclass(frozen=True)
class Served:
    """A server in this process."""

    place: Place
    uri: str
    registrar: Registrar
    app: Any = field(repr=False)

    @property
    def gate(self) -> GateClient:
        return GateClient(self.uri)


@dataclass(frozen=True)
class Step:
    """A lasting effect: what was about to happen, to what, and the how-manieth of its kind it is."""

    what: str
    occurrence: int = 1

    def __str__(self) -> str:
        return f"{self.what} ({self.occurrence})"


Work = Callable[[Served], Any]


@contextmanager
def served(place: Place) -> Iterator[Served]:
    """A gated server of this very process, as a worker of `mlflow server` would be."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_", "GUARDRAIL_"))]:
        del os.environ[name]
    os.environ.update(_environment(place))
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    from guardrail.gate.app.apps import install

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    install()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store: Any = handlers._get_model_registry_store()
    os.environ.pop("MLFLOW_REGISTRY_URI", None)  # MLflow writes it as it opens the store; here is a client, too
    try:
        yield Served(place, f"http://127.0.0.1:{server.port}", store.registrar, app)
    finally:
        server.shutdown()


def _environment(place: Place) -> dict[str, str]:
    from guardrail.gate.app.launch import Launch, environment

    who = place.people
    launch = Launch(
        trust=who.trust_file,
        root_keys=(who.root.public_file,),
        root_threshold=1,
        backend_store_uri=place.database,
        artifacts_destination=str(place.artifacts),
        key=str(who.server.private_file),
        ledger=place.ledger,
        ledger_head=place.head,
    )
    given = environment(launch, {}, place.directory / "report")
    return given | {
        "_MLFLOW_SERVER_FILE_STORE": place.database,
        "_MLFLOW_SERVER_REGISTRY_STORE": f"gated+{place.database}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(place.artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "gunicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }


class Watch:
    """Counts what the server's threads do to disk and database; the client's thread is not looked at."""

    def __init__(self, directory: Path, deadly: Step | None, tear: bool) -> None:
        self.seen: list[str] = []
        self._directory, self._deadly, self._tear = str(directory), deadly, tear
        self._client, self._active, self._mutex = threading.get_ident(), True, threading.Lock()

    def install(self) -> None:
        """From now on; there is no way back, the process ends with it."""
        from sqlalchemy import Engine, event

        sync = os.fsync

        def fsync(file: Any) -> None:
            self._about(f"fsync {self._name(str(Path(f'/proc/self/fd/{int(file)}').readlink()))}")
            sync(file)

        setattr(os, "fsync", fsync)  # noqa: B010  (its parameter has another name)
        sys.addaudithook(self._audit)
        event.listen(Engine, "before_cursor_execute", self._executes)
        event.listen(Engine, "commit", self._commits)
        event.listen(Engine, "rollback", self._forgets)

    def stop(self) -> None:
        """What follows is not counted."""
        self._active = False

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self._active or name not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"):
            return
        target = str(os.fspath(arguments[1 if name == "os.rename" else 0]))
        if not target.startswith("/") or target.startswith(self._directory):
            self._about(f"{name.removeprefix('os.')} {self._name(target)}")

    def _executes(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if found := WRITES.match(statement):
            connection.info.setdefault("written", []).append(found[1])

    def _commits(self, connection: Any) -> None:
        if written := connection.info.pop("written", []):
            self._about(f"commit {written[-1]}")

    def _forgets(self, connection: Any) -> None:
        connection.info.pop("written", None)

    def _about(self, what: str) -> None:
        if not self._active or threading.get_ident() == self._client:
            return
        with self._mutex:
            self.seen.append(what)
            if self._deadly == Step(what, self.seen.count(what)):
                self._die()

    def _die(self) -> None:
        if self._tear:
            ledger = Path(self._directory) / "ledger" / "ledger"
            os.truncate(ledger, ledger.stat().st_size - 100)
        os.kill(os.getpid(), signal.SIGKILL)

    def _name(self, path: str) -> str:
        inside = VARIABLE.sub("*", path.removeprefix(self._directory).lstrip("/"))
        return TEMPORARY.sub(r"\1\2.new", FOLDER.sub(r"\1", inside))


def forked(target: Callable[..., None], *arguments: Any) -> int:
    """Run it in a process of its own; the exit code, or minus the signal that ended it."""
    process = _context().Process(target=target, args=arguments)
    process.start()
    return _ended(process)


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _ended(process: BaseProcess) -> int:
    process.join(timeout=120)
    if process.exitcode is None:
        process.kill()
        process.join()
    return int(process.exitcode or 0)


def told(target: Work, place: Place, meanwhile: Callable[[], None] | None = None) -> Any:
    """What ``target`` returns (as JSON), asked of a server in a process of its own; it starts before ``meanwhile``."""
    answer, context = place.directory / "answer.json", _context()
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(target, place, answer, there))
    process.start()
    there.close()
    try:
        here.recv()
        if meanwhile is not None:
            meanwhile()
        here.send("go")
    except EOFError:  # it could not start, and says why in its answer
        pass
    found = json.loads(answer.read_text()) if _ended(process) == 0 else {"failed": f"it ended: {process.exitcode}"}
    if found["failed"]:
        raise AssertionError(found["failed"])
    return found["said"]


def _answer(target: Work, place: Place, answer: Path, ask: Connection) -> None:
    found: dict[str, Any] = {"failed": "", "said": None}
    try:
        with served(place) as running:
            ask.send("ready")
            ask.recv()
            found["said"] = target(running)
    except BaseException:
        found["failed"] = traceback.format_exc()
    answer.write_text(json.dumps(found))
    os._exit(0)


def steps(work: Work, place: Place) -> list[Step]:
    """Every lasting effect of ``work`` on the server's side, in order, from an undisturbed run."""
    path = place.directory / "steps.json"
    code = forked(_watched, work, place, None, False, path)
    if code or not path.exists():
        raise AssertionError(f"the undisturbed run ended with {code}: {path.with_suffix('.error').read_text()}")
    seen = json.loads(path.read_text())
    return [Step(what, seen[: index + 1].count(what)) for index, what in enumerate(seen)]


def killed(work: Work, place: Place, step: Step | None, *, tear: bool = False) -> int:
    """Do ``work``; the server dies right before ``step`` (None: when all is done). The exit code."""
    return forked(_watched, work, place, step, tear, place.directory / "steps.json")


def _watched(work: Work, place: Place, step: Step | None, tear: bool, path: Path) -> None:
    try:
        with served(place) as running:
            watch = Watch(place.directory, step, tear)
            watch.install()
            work(running)
            watch.stop()
            if path.parent.name.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            path.write_text(json.dumps(watch.seen))
    except BaseException:
        path.with_suffix(".error").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def kept(place: Place, name: str, value: Any) -> None:
    """Keep something for another process."""
    (place.directory / f"{name}.pickle").write_bytes(pickle.dumps(value))


def recalled(place: Place, name: str) -> Any:
    """It, again."""
    return pickle.loads((place.directory / f"{name}.pickle").read_bytes())  # noqa: S301  (written by this test)


def now() -> datetime:
    return datetime.now(UTC)
