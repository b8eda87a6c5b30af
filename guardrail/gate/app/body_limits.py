"""Requests that only carry a little are not read beyond that: MLflow under uvicorn holds a whole body in memory.

The gate's own routes take envelopes, MLflow's registry takes names, tags and descriptions. A longer body is refused by
its announced length before a byte of it is read; one whose length is not announced, too.
Not covered: uploads of artifacts, which uvicorn streams to the disk, and MLflow's other routes.
"""

from __future__ import annotations

import json

from guardrail.evidence.envelope import LARGEST
from guardrail.gate.refusal_pacing import Asgi, Receive, Scope, Send
from guardrail.registry.gate.protocol import PREFIX

BOUNDS = {f"/{PREFIX}/": LARGEST, "/mlflow/registered-models/": LARGEST, "/mlflow/model-versions/": LARGEST}
"""Part of a path to the most bytes that a request for it may carry."""
MESSAGE = (
    "guardrail refuses: the request has more bytes than may be, or does not say how many\n  expected: at most {most}"
)


def bounding(app: Asgi) -> Asgi:
    """The application with bounded bodies where little is carried."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        most = bound(str(scope.get("path", ""))) if scope["type"] == "http" else None
        if most is not None and not _announced(scope) <= most:
            await _refuse(send, most)
        else:
            await app(scope, receive, send)

    return bounded


def bound(path: str) -> int | None:
    """The most bytes of a request for this path; None where it is not bounded here."""
    return next((most for part, most in BOUNDS.items() if part in path), None)


def _announced(scope: Scope) -> float:
    """How many bytes follow; more than any bound where it is not said."""
    found = {bytes(name).lower(): bytes(value) for name, value in scope.get("headers", ())}
    length = found.get(b"content-length", b"0")
    return int(length) if length.isdigit() and b"transfer-encoding" not in found else float("inf")


async def _refuse(send: Send, most: int) -> None:
    body = json.dumps({"error_code": "PERMISSION_DENIED", "message": MESSAGE.format(most=most)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
