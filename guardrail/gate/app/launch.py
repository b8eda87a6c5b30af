"""`guardrail server`: check everything that can be checked beforehand, then run `mlflow server`.

The flags are those that docs/server.md gives for plain `mlflow server`, so that nothing here is needed to be safe: the
application (``apps.py``) asserts in every worker that the gate is active.
Not covered: options of MLflow that are not offered here (pass them to plain `mlflow server`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType

from guardrail.errors import InvalidInput
from guardrail.evidence.trust.trust_file import load_trust
from guardrail.gate import settings as config
from guardrail.gate.app.apps import REPORT
from guardrail.gate.app.own_files import STORES, own, require_outside
from guardrail.gate.sealed.sealed_storage import require_sealing
from guardrail.gate.settings import SCHEME

REMOVED = (
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_WORKSPACE_STORE_URI",
    "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_WORKSPACE",
    "MLFLOW_GUNICORN_OPTS",
    "MLFLOW_UVICORN_OPTS",
    "MLFLOW_TRACKING_URI",
    config.ROOT_THRESHOLD,
)
THREADS = 32
"""So many requests each worker of gunicorn serves at once: its default is one, and one slow client would stop it."""
KEEP_ALIVE = 5
"""Seconds that an idle connection lasts, as under uvicorn; gunicorn's own 2 end more that were just being used."""
GUNICORN = f"--log-level warning --worker-class gthread --threads {THREADS} --keep-alive {KEEP_ALIVE}"
APPS = {"plain": "guardrail", "basic-auth": "guardrail-basic-auth"}


@dataclass(frozen=True)
class Launch:
    """How to start the server; without ``root_threshold`` all root keys must have signed the trust file."""

    trust: Path
    root_keys: tuple[Path, ...]
    root_threshold: int | None
    backend_store_uri: str
    artifacts_destination: str
    key: str
    ledger: Path
    ledger_head: Path
    public_key: Path | None = None
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 4
    auth: str = "plain"
    gunicorn: bool = False
    allowed_hosts: str | None = None


def command(launch: Launch) -> list[str]:
    """The command line of `mlflow server`."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        APPS[launch.auth],
        "--backend-store-uri",
        launch.backend_store_uri,
        "--registry-store-uri",
        SCHEME + launch.backend_store_uri,
        "--serve-artifacts",
        "--artifacts-destination",
        launch.artifacts_destination,
        "--disable-workspaces",
        "--host",
        launch.host,
        "--port",
        str(launch.port),
        "--workers",
        str(launch.workers),
        *(["--gunicorn-opts", GUNICORN] if launch.gunicorn else []),
        *(["--allowed-hosts", launch.allowed_hosts] if launch.allowed_hosts else []),
    ]


def environment(launch: Launch, inherited: Mapping[str, str], report: Path) -> dict[str, str]:
    """The environment: the gate's settings, where a worker reports, and off what could go around the gate."""
    kept = {name: value for name, value in inherited.items() if name not in REMOVED}
    return {
        **kept,
        config.TRUST: str(launch.trust.absolute()),
        config.ROOT_KEYS: os.pathsep.join(str(path.absolute()) for path in launch.root_keys),
        **({config.ROOT_THRESHOLD: str(launch.root_threshold)} if launch.root_threshold else {}),
        config.SERVER_KEY: _absolute(launch.key),
        **({config.SERVER_PUBLIC_KEY: str(launch.public_key.absolute())} if launch.public_key else {}),
        config.LEDGER: str(launch.ledger.absolute()),
        config.LEDGER_HEAD: str(launch.ledger_head.absolute()),
        REPORT: str(report),
        **dict.fromkeys(config.MUST_BE_OFF, "false"),
    }


def check(launch: Launch, now: datetime) -> None:
    """What can be known before anything is started.

    Raises:
        InvalidInput: an option, an installation without the plug-ins, a file of the server's own that clients could
            write, or a bucket in which nothing can be sealed.
        EvidenceInvalid: no valid trust file, or a ledger that does not verify.
        ServiceUnavailable: the bucket does not answer.
    """
    place, given = config.destination(launch.artifacts_destination), environment(launch, os.environ, Path())
    require_outside(place, own({**given, STORES[0]: launch.backend_store_uri}))
    require_sealing(place)
    scheme = SCHEME + launch.backend_store_uri.partition(":")[0]
    _require_entry_point("mlflow.model_registry_store", scheme)
    _require_entry_point("mlflow.app", APPS[launch.auth])
    settings = config.settings(environment(launch, {}, Path()))
    try:
        data = settings.trust.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read the trust file {settings.trust}: {error.strerror}") from error
    trust = load_trust(data, roots=settings.root_keys, threshold=settings.threshold, now=now)
    config.open_journal(settings, trust)


def start(launch: Launch) -> int:
    """Check, then run the server until it ends; its exit code.

    Raises:
        InvalidInput: the server ended because its gate was not active, or before it began.
        EvidenceInvalid: no valid trust file.
    """
    check(launch, datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="guardrail-") as folder:
        report = Path(folder) / "report"
        with subprocess.Popen(command(launch), env=environment(launch, os.environ, report)) as server:
            _forward(server)
            code = server.wait()
        if report.exists():
            raise InvalidInput(f"the server ended: {report.read_text(encoding='utf-8')}")
    return max(code, 0)


def _absolute(key: str) -> str:
    """A key file by its whole path; a service's URI as it is."""
    return key if ":" in key else str(Path(key).absolute())


def _forward(server: subprocess.Popen[bytes]) -> None:
    """Whoever ends us ends the server."""

    def forward(number: int, _: FrameType | None) -> None:
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)


def _require_entry_point(group: str, name: str) -> None:
    known = sorted(entry.name for entry in entry_points(group=group) if entry.value.startswith("guardrail."))
    if name not in known:
        raise InvalidInput(
            f"MLflow knows no {name!r} of guardrail (entry points {group})",
            expected=", ".join(known) or "the package mlflow-guardrail, installed with pip",
            next_step="use such a database, or install mlflow-guardrail (again)",
        )
