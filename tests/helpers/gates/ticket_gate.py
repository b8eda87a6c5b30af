"""The part of a gated server that a client's own steps need, over real HTTP: tickets, and statements handed in.

What else it is asked it passes on to a real MLflow server, where it has one.

Not a test file. Not covered: everything that a server checks; this one says yes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import requests

from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger.entries import Head
from guardrail.evidence.statements import stage_statement
from guardrail.evidence.statements.ticket_requests import read_request
from guardrail.evidence.statements.tickets import LIFETIME, Ticket
from guardrail.registry.gate.protocol import PREFIX, Submitted


@dataclass
class Gate:
    """What was asked of it; tickets are for ``model`` where that is set, whatever was asked."""

    uri: str = ""
    upstream: str = ""
    now: datetime | None = None
    model: str = ""
    issued: list[Ticket] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    statements: list[bytes] = field(default_factory=list)

    def ticket(self, request: bytes) -> Ticket:
        """A new one, counted; the same for the same request."""
        asked = read_request(request)
        if request not in self.requests:
            self.requests.append(request)
            made = ticket(self.model or asked.model, asked.alias, len(self.requests), self.now or datetime.now(UTC))
            self.issued.append(made)
        return self.issued[self.requests.index(request)]

    def recorded(self, envelope: bytes) -> Submitted:
        """What a gate answers; a training statement that it has not seen is the next attempt."""
        if envelope not in self.statements:
            self.statements.append(envelope)
        trained = [one for one in self.statements if _is_training(one)]
        attempt = trained.index(envelope) + 1 if envelope in trained else 0
        head = Head(digest=sha256(envelope), number=1, time=datetime.now(UTC) - timedelta(seconds=1))
        return Submitted(state="recorded", entry=head, attempt=attempt)


def ticket(model: str, alias: str, number: int, now: datetime) -> Ticket:
    """A ticket with a nonce of its own, the same for the same number."""
    return Ticket(
        model=model,
        alias=alias,
        nonce=sha256(f"nonce {number}".encode()),
        issued=now,
        expires=now + LIFETIME,
        ledger=sha256(f"entry {number}".encode()),
    )


def _is_training(envelope: bytes) -> bool:
    return f"{stage_statement.PREFIX}train{stage_statement.SUFFIX}".encode() in unverified_payload(envelope)


@contextmanager
def gate(now: datetime | None = None, upstream: str = "") -> Iterator[Gate]:
    """A gate that answers on a port of its own."""
    opened = Gate(now=now, upstream=upstream)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(opened)) as server:
        opened.uri = f"http://127.0.0.1:{server.server_address[1]}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield opened
        finally:
            server.shutdown()


def _handler(opened: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == f"/{PREFIX}/tickets":
                self._answer(canonical(opened.ticket(body)))
            elif self.path == f"/{PREFIX}/statements":
                self._answer(canonical(opened.recorded(body)))
            elif opened.upstream:
                self._pass_on(body)
            else:
                self.send_error(404)

        do_GET = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815  (http.server looks for these names)

        def _pass_on(self, body: bytes) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            url = f"{opened.upstream}{self.path}"
            answer = requests.request(self.command, url, data=body, headers=headers, timeout=60)
            self._answer(answer.content, answer.status_code)

        def _answer(self, data: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    return Handler
