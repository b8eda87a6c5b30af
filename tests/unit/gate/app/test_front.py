"""What stands before MLflow's application under uvicorn: refusals at a bounded rate, and small bodies."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from guardrail.errors import InvalidInput
from guardrail.evidence.envelope import LARGEST
from guardrail.gate.app.body_limits import bounding
from guardrail.gate.refusal_pacing import (
    ADDRESSES,
    AT_ONCE,
    LONGEST,
    PER_SECOND,
    RATE,
    UNCHANGED,
    Pacing,
    rate,
    unchanged,
)


class Clock:
    """Time that passes where somebody waits, or never."""

    def __init__(self) -> None:
        self.now, self.waited = 1000.0, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


async def nothing() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def answered(app: Any, method: str = "POST", path: str = "/", client: str = "10.0.0.1", **headers: str) -> int:
    """The status of one request."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "client": (client, 1), "headers": given}
    asyncio.run(app(scope, nothing, send))
    return int(sent[0]["status"])


def saying(status: int, *headers: tuple[bytes, bytes]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return app


def paced(status: int) -> tuple[Pacing, Clock]:
    clock = Clock()
    return Pacing(saying(status), PER_SECOND, lambda: clock.now, clock.sleep), clock


def test_some_refusals_come_at_once_and_then_so_many_a_second_in_order() -> None:
    app, clock = paced(403)
    for _ in range(AT_ONCE + 4):
        assert answered(app) == 403
    assert clock.waited == pytest.approx([0.0] * AT_ONCE + [n / PER_SECOND for n in (1, 2, 3, 4)])


def test_a_flood_waits_no_longer_than_the_limit_and_is_forgiven_with_time() -> None:
    app, clock = paced(403)
    for _ in range(AT_ONCE + 10 * int(LONGEST * PER_SECOND)):
        answered(app)
    assert max(clock.waited) == pytest.approx(LONGEST)
    clock.now += LONGEST + AT_ONCE / PER_SECOND
    answered(app)
    assert clock.waited[-1] == 0


def test_another_address_does_not_wait_and_so_many_are_remembered() -> None:
    app, clock = paced(403)
    for _ in range(AT_ONCE + 1):
        answered(app)
    answered(app, client="10.0.0.2")
    assert clock.waited[-2:] == pytest.approx([1 / PER_SECOND, 0])
    for number in range(2 * ADDRESSES):
        answered(app, client=f"10.1.{number // 256}.{number % 256}")
    assert len(app._buckets) == ADDRESSES


@pytest.mark.parametrize(("method", "status"), [("POST", 200), ("POST", 400), ("GET", 404), ("GET", 200), ("PUT", 500)])
def test_what_is_no_refusal_is_never_slowed_down(method: str, status: int) -> None:
    app, clock = paced(status)
    for _ in range(3 * AT_ONCE):
        answered(app, method)
    assert clock.waited == []


@pytest.mark.parametrize(
    ("method", "status"),
    [("POST", 403), ("DELETE", 404), ("PUT", 403), ("PATCH", 401), ("POST", 503), ("GET", 403), ("GET", 503)],
)
def test_every_refusal_takes_its_place(method: str, status: int) -> None:
    app, clock = paced(status)
    answered(app, method)
    assert clock.waited == [0.0]


def test_what_was_done_already_is_paced_though_it_is_answered() -> None:
    clock = Clock()
    assert answered(Pacing(saying(200, (UNCHANGED, b"1")), PER_SECOND, lambda: clock.now, clock.sleep)) == 200
    assert clock.waited == [0.0]


def test_a_request_for_what_was_done_already_is_marked_and_nothing_happens_outside_of_one() -> None:
    from flask import Flask

    app = Flask("test")

    @app.get("/again")
    def again() -> str:
        unchanged()
        return "done"

    assert app.test_client().get("/again").headers[UNCHANGED.decode()] == "1"
    unchanged()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many", ""])
def test_a_rate_that_is_none_starts_no_server(text: str) -> None:
    assert rate({}) == PER_SECOND
    assert rate({RATE: "2.5"}) == 2.5
    with pytest.raises(InvalidInput, match=RATE):
        rate({RATE: text})


BOUNDED = [
    "/api/2.0/guardrail/statements",
    "/api/2.0/guardrail/tickets",
    "/ajax-api/2.0/mlflow/registered-models/alias",
    "/api/2.0/mlflow/model-versions/create",
    "/static/api/2.0/mlflow/registered-models/create",
]


@pytest.mark.parametrize("path", BOUNDED)
def test_a_body_that_is_announced_too_long_or_not_at_all_is_not_read(path: str) -> None:
    app = bounding(saying(200))
    assert answered(app, path=path) == 200
    assert answered(app, path=path, content_length=str(LARGEST)) == 200
    assert answered(app, path=path, content_length=str(LARGEST + 1)) == 403
    assert answered(app, path=path, transfer_encoding="chunked") == 403
    assert answered(app, path=path, Content_Length="1", Transfer_Encoding="chunked") == 403
    assert answered(app, path=path, content_length="-1") == 403


def test_other_routes_are_as_in_mlflow() -> None:
    app = bounding(saying(200))
    path = "/api/2.0/mlflow-artifacts/artifacts/0/m"
    assert answered(app, "PUT", path, content_length=str(1 << 40)) == 200
    assert answered(app, "PUT", path, transfer_encoding="chunked") == 200
