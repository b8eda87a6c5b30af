"""A real MLflow server over HTTP, once per session: SQLite store, artifacts proxied through the server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

START_SECONDS = 180


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
    with running(tmp_path_factory.mktemp("mlflow-server")) as started:
        yield started


@contextmanager
def running(directory: Path, port: int = 0) -> Iterator[Server]:
    """A server of one's own, which may be killed and, on the same directory and port, started again."""
    port = port or _free_port()
    log = directory / "server.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(_command(directory, port), cwd=directory, stdout=stream, stderr=stream,
                                   env=_environment(), start_new_session=True)  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield Server(f"http://127.0.0.1:{port}", directory / "artifacts", process)
    finally:
        _end(process)


def _command(directory: Path, port: int) -> list[str]:
    return [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}",
        "--artifacts-destination", str(directory / "artifacts"),
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
