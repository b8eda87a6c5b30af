"""How our own code uses connections: one that was idle is not used again, for its server may be ending it.

What a hostile server does to an exchange: test_hostile_registry.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from hostile_server import listening

from guardrail.errors import ServiceUnavailable
from guardrail.registry.http import transport
from guardrail.registry.http.transport import Transport


@pytest.fixture
def once() -> Iterator[str]:
    """A server that promises to keep connections, and ends each, without a word, at its second request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answered = False

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = self.answered
            if not self.answered:
                self.answered = True
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def said(uri: str, times: int) -> list[int]:
    asking = Transport(uri)
    return [asking.ask("POST", "statements", body=b"{}").status for _ in range(times)]


def test_what_was_idle_is_not_used_again(once: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", -1.0)
    assert said(once, 3) == [200, 200, 200]


def test_what_was_used_just_now_is(once: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", 60.0)
    with pytest.raises(ServiceUnavailable, match="not available"):
        said(once, 2)
