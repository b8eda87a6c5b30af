"""A real MLflow server over HTTP, once per session: SQLite store, artifacts proxied through the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from server_process import Command, free_port, started


@dataclass(frozen=True)
class Server:
    """Where the server answers and where it keeps its artifacts; ``process`` leads a group of its own."""

    uri: str
    artifacts: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a machine would go down: SIGKILL for the whole group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that tests share; its process group ends with the session."""
    with running(tmp_path_factory.mktemp("mlflow-server")) as shared:
        yield shared


@contextmanager
def running(directory: Path, port: int = 0) -> Iterator[Server]:
    """A server of one's own, which may be killed and, on the same directory and port, started again."""
    port = port or free_port()
    with started(Command(_command(directory, port), _environment()), port, directory) as made:
        yield Server(f"http://127.0.0.1:{port}", directory / "artifacts", made.process)


def _command(directory: Path, port: int) -> list[str]:
    return [
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
        f"sqlite:///{directory / 'mlflow.db'}",
        "--artifacts-destination",
        str(directory / "artifacts"),
    ]


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs: nine processes
    return {**inherited, "OMP_NUM_THREADS": "1", **off}
