"""As many slow connections as there are workers, and the next request is answered; slow by their header or their body.

Not covered: more slow connections than gunicorn has threads, or than the system has files.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import requests
from gated_servers import Running, gated_server, people
from matrix import Cell

pytestmark = pytest.mark.slow
WORKERS = 2
HOST = b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
ANNOUNCED = HOST + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
SLOW = {
    "before the first byte": b"",
    "within the header": b"POST /api/2.0/mlflow/runs/search " + HOST,
    "within the body": b"POST /api/2.0/mlflow/runs/search " + ANNOUNCED,
    "within an upload": b"PUT /api/2.0/mlflow-artifacts/artifacts/0/slow " + ANNOUNCED,
    "within the gate's own route": b"POST /api/2.0/guardrail/statements " + ANNOUNCED,
}


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of its own: slow connections would hinder other tests."""
    folder = tmp_path_factory.mktemp("slow")
    who = people(tmp_path_factory.mktemp("people"))
    with gated_server(folder, Cell(server=request.param), who, workers=WORKERS) as made:
        yield made


@pytest.mark.parametrize("how", list(SLOW))
def test_the_next_request_is_answered(running: Running, how: str) -> None:
    address = urlsplit(running.uri)
    with ExitStack() as stack:
        for _ in range(2 * WORKERS):
            slow = stack.enter_context(socket.create_connection((str(address.hostname), address.port or 0), timeout=10))
            slow.sendall(SLOW[how])
        for _ in range(2 * WORKERS):
            found = requests.get(
                f"{running.uri}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}, timeout=20
            )
            assert found.status_code == 200
