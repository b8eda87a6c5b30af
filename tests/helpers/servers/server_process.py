"""A server in a process group of its own: started, waited for until it answers, ended with all that it started.

Not covered: which server (``mlflow_server.py``, ``gated_servers.py``).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

START_SECONDS = 180


@dataclass
class Command:
    """A server's command line and environment, before it is started."""

    arguments: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """A server that answers, and what it writes."""

    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def started(command: Command, port: int, directory: Path) -> Iterator[Started]:
    """The process, from its first answer to the block's end; one on the same directory goes on with the log."""
    log = directory / "server.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command.arguments, cwd=directory, stdout=stream, stderr=stream, env=command.env, start_new_session=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield Started(process, log)
    finally:
        end(process)


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


def members(group: int) -> list[int]:
    """The processes of a group, as Linux lists them."""
    found = []
    for name in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        with suppress(ProcessLookupError):
            if os.getpgid(int(name)) == group:
                found.append(int(name))
    return found


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
