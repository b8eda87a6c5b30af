"""A server that stands before an honest one and misbehaves at one call: it drips, floods, nests, redirects, never ends.

Real HTTP on loopback, below the level of any HTTP library, because no library would send this. Every misbehaviour ends
by itself when its server is closed, or after ``LONGEST`` seconds. Not a test file.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

LONGEST = 30.0
DROPS = 0.05
"""Seconds between two bytes of what drips: no timeout between two bytes ever passes."""
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


@dataclass
class Wire:
    """The connection to a client that is to be annoyed."""

    stream: Any
    closing: threading.Event

    def send(self, data: bytes) -> None:
        self.stream.write(data)
        self.stream.flush()

    def for_ever(self, data: bytes, pause: float = 0.0) -> None:
        """The same again and again, until the client has had enough."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end and not self.closing.wait(pause):
            self.send(data)


def silence(wire: Wire) -> None:
    wire.closing.wait(LONGEST)


def dripping_body(wire: Wire) -> None:
    wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    wire.for_ever(b"1\r\n \r\n", DROPS)


def dripping_body_without_a_length(wire: Wire) -> None:
    wire.send(OK + b"\r\n{")
    wire.for_ever(b" ", DROPS)


def dripping_header(wire: Wire) -> None:
    wire.send(OK + b"X: ")
    wire.for_ever(b"x", DROPS)


def endless_continue(wire: Wire) -> None:
    wire.for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", DROPS)


def dripping_trailer(wire: Wire) -> None:
    wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    wire.for_ever(b"X: y\r\n", DROPS)


def endless_headers(wire: Wire) -> None:
    wire.send(OK)
    wire.for_ever(b"X: " + b"x" * 60_000 + b"\r\n")


def endless_chunk_size(wire: Wire) -> None:
    wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    wire.for_ever(b"0" * 60_000)


def flood(wire: Wire) -> None:
    wire.send(OK + b'Content-Length: 100000000000\r\n\r\n{"a": "')
    wire.for_ever(b"a" * (1 << 20))


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(64 << 20), 1)


def bomb(wire: Wire) -> None:
    inner = _bomb()
    wire.send(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)


def deep(wire: Wire) -> None:
    body = b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    wire.send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def crowd(wire: Wire) -> None:
    """What lists there are, each longer than any honest one."""
    many = [{"path": f"f{number}", "is_dir": False, "file_size": 1} for number in range(20_000)]
    lists = {"files": many, "envelopes": ["x"] * 20_000, "waiting": [{}] * 20_000, "model_version": {"tags": many}}
    body = json.dumps(lists).encode()
    wire.send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def page_of_html(wire: Wire) -> None:
    body = b"<!doctype html><title>Sign in</title>"
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def redirect_to_a_file(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")


def redirect_to_another_host(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/x\r\nContent-Length: 0\r\n\r\n")


def redirect_to_itself(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")


def unavailable_for_years(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 100000000\r\nContent-Length: 100000000000\r\n\r\n")
    wire.for_ever(b"a" * (1 << 20))


Behaviour = Callable[[Wire], None]
SLOW: tuple[Behaviour, ...] = (
    silence,
    dripping_body,
    dripping_body_without_a_length,
    dripping_header,
    dripping_trailer,
    endless_continue,
)
QUICK: tuple[Behaviour, ...] = (
    endless_headers,
    endless_chunk_size,
    flood,
    bomb,
    deep,
    crowd,
    page_of_html,
    redirect_to_a_file,
    redirect_to_another_host,
    redirect_to_itself,
    unavailable_for_years,
)
BEHAVIOURS = (*SLOW, *QUICK)
MAY_BE_TAKEN = frozenset({deep, page_of_html, crowd})
"""Answers that are whole and small enough: who only asks whether anybody is there, or takes any file, takes them."""


@dataclass
class Hostile:
    """Passes on what it is asked, but for one call; ``calls`` are those that came."""

    upstream: str
    at: int = -1
    how: Behaviour = silence
    uri: str = ""
    calls: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def set(self, at: int, how: Behaviour) -> None:
        """From now on be hostile at this call, counted from 0."""
        self.at, self.how = at, how
        self.calls.clear()

    @property
    def annoyed(self) -> bool:
        """Whether that call came."""
        return self.at < len(self.calls)


@contextmanager
def hostile(upstream: str) -> Iterator[Hostile]:
    """One before the server at ``upstream``."""
    made = Hostile(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            number = len(made.calls)
            made.calls.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if number == made.at:
                self.close_connection = True
                with suppress(OSError):
                    made.how(Wire(self.wfile, made.closing))
                return
            self._pass_on(body)

        def _pass_on(self, body: bytes) -> None:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            done = requests.request(self.command, made.upstream + self.path, data=body, headers=headers, timeout=60)
            self.send_response(done.status_code)
            self.send_header("Content-Type", done.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(done.content)))
            self.end_headers()
            self.wfile.write(done.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - the names are http.server's

        def log_message(self, *_: object) -> None:
            """Tests print what commands say."""

    with listening(Handler) as port:
        made.uri = f"http://127.0.0.1:{port}"
        try:
            yield made
        finally:
            made.closing.set()


@contextmanager
def raw(answer: Callable[[str, Wire], None]) -> Iterator[str]:
    """A server whose every answer is what ``answer`` writes for a path; its address."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                answer(self.path, Wire(self.wfile, closing))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with listening(Handler) as port:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            closing.set()


def answering(document: object) -> bytes:
    """An honest answer with this JSON."""
    body = json.dumps(document).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server of this handler; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
