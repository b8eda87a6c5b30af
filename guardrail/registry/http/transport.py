"""The one way in which our own code asks a server: each exchange has an end, whatever the server does.

A timeout of a socket starts again at every byte, so a server that drips, in the body or in headers, is never late. Here
a watch shuts the connection down when the exchange as a whole has taken too long (as ``curl --max-time``); a file has
longer, by its size (as curl's ``--speed-limit``). No redirect is followed, no compression is asked for or undone, no
cookie is kept, and no more is read than was agreed to. The limits: ``limits.py``.
Not covered: MLflow's own client (``registry/mlflow/mlflow_session.py``), looking up a host's name, and SOCKS proxies,
which know only the timeout between two bytes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, BinaryIO

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.registry.http.address import redacted, require_address, unavailable, verify_tls
from guardrail.registry.http.limits import AnswerLimits, limits, raised_by

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 1.0
"""A connection that was used longer ago is not used again: servers end idle ones without a word (gunicorn after 2 s,
uvicorn after 5), and what is sent at that moment is lost, though it may have been heard."""
CHUNK = 1 << 20
REASON_BYTES = 64 << 10
"""The most of an error's text that is read."""
SHOWN = 200


class Watch:
    """Shuts down the sockets that were opened or used while it is entered, once ``seconds`` are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.late = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(max(seconds, 0.0), self._end)
        self._timer.daemon = True

    def __enter__(self) -> Watch:
        self._token = _WATCH.set(self)
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._timer.cancel()
        _WATCH.reset(self._token)

    def hold(self, used: socket.socket) -> None:
        """Watch this socket, too."""
        with self._lock:
            self._sockets.append(used)
            if self.late:
                _shut(used)

    def _end(self) -> None:
        with self._lock:
            self.late = True
            for used in self._sockets:
                _shut(used)


_WATCH: ContextVar[Watch | None] = ContextVar("guardrail_watch", default=None)


def _shut(used: socket.socket) -> None:
    with suppress(OSError, TypeError, ValueError):  # closed since, or no socket of the system's
        socket.socket.shutdown(used, socket.SHUT_RDWR)  # of TLS, too, below whoever reads from it


def _hold(used: Any) -> None:
    watch = _WATCH.get()
    if watch is not None and isinstance(used, socket.socket):
        watch.hold(used)


class _Held(HTTPConnection):
    """A connection whose socket the watch knows from its first moment on, new or used again."""

    used = 0.0

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        _hold(made)
        return made

    def connect(self) -> None:
        super().connect()
        _hold(self.sock)

    def request(self, *given: Any, **more: Any) -> None:
        _hold(self.sock)
        self.used = time.monotonic()
        super().request(*given, **more)


class _HeldTls(_Held, HTTPSConnection):
    """The same over TLS."""


class _Fresh(HTTPConnectionPool):
    """A pool that gives no connection that was idle for long."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        given = super()._get_conn(timeout)
        if isinstance(given, _Held) and time.monotonic() - given.used > IDLE_SECONDS:
            given.close()
        return given


class _Pool(_Fresh):
    ConnectionCls = _Held


class _TlsPool(_Fresh, HTTPSConnectionPool):
    ConnectionCls = _HeldTls


class WatchedAdapter(HTTPAdapter):
    """requests' adapter over connections that a :class:`Watch` can end."""

    def init_poolmanager(self, *given: Any, **more: Any) -> None:
        """As requests does it, with our connections."""
        super().init_poolmanager(*given, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        """Likewise through a proxy that speaks HTTP."""
        manager = super().proxy_manager_for(proxy, **more)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


@dataclass(frozen=True)
class HttpAnswer:
    """What a server said, read whole; of an error only the beginning."""

    status: int
    reason: str
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is no error."""
        return self.status < 400


class Allowance:
    """What is left of the time and the number of answers that one server may take."""

    def __init__(self, uri: str, given: AnswerLimits) -> None:
        self._uri, self._limits = uri, given
        self._seconds, self._calls = float(given.total_seconds), given.calls

    @contextmanager
    def exchange(self, seconds: float) -> Iterator[Watch]:
        """A watch over one exchange, which may take these seconds, or what is left.

        Raises:
            ServiceUnavailable: it took longer, or all of them together did.
            EvidenceInvalid: there were too many.
        """
        self._require_some_left()
        self._calls -= 1
        began = time.monotonic()
        watch = Watch(min(seconds, self._seconds))
        try:
            with watch:
                yield watch
        except (requests.RequestException, HTTPError, OSError) as error:
            if watch.late:
                raise too_slow(self._uri, watch.seconds) from error
            raise
        finally:
            self._seconds -= time.monotonic() - began
        if watch.late:  # a body without a length ends where its connection does
            raise too_slow(self._uri, watch.seconds)

    def _require_some_left(self) -> None:
        if self._calls <= 0:
            raise EvidenceInvalid(
                f"{redacted(self._uri)} was asked {self._limits.calls} times, and there is still no end",
                expected="a registry whose lists end",
                next_step=raised_by("calls"),
            )
        if self._seconds <= 0:
            raise ServiceUnavailable(
                f"the answers of {redacted(self._uri)} took more than {self._limits.total_seconds:g} s in sum",
                expected="a server that is faster",
                next_step=raised_by("total_seconds"),
            )


class Transport:
    """Everything that is asked of the server at ``uri`` by one command.

    Every method raises:
        ServiceUnavailable: nobody answers, an answer breaks off, or takes too long.
        InvalidInput: it redirects, or answers in a compression that nobody asked for.
        EvidenceInvalid: an answer is too large.
    """

    def __init__(self, uri: str, given: AnswerLimits | None = None) -> None:
        require_address(uri)
        self.uri = uri.rstrip("/")
        self.limits = given or limits()
        self._allowance = Allowance(uri, self.limits)
        self._session = session()

    def ask(
        self, method: str, route: str, *, params: Mapping[str, str] | None = None, body: bytes = b"", most: int = 0
    ) -> HttpAnswer:
        """One answer, an error too, of at most ``most`` bytes (without it, as the limits say)."""
        most = most or self.limits.answer_bytes
        with self._exchange(self.limits.seconds, method, route, params, body) as answer:
            if answer.status_code >= 400:
                return HttpAnswer(answer.status_code, str(answer.reason), _beginning(answer))
            data = b"".join(read(self.uri, answer, most))
        return HttpAnswer(answer.status_code, str(answer.reason), data)

    def save(
        self, route: str, params: Mapping[str, str], stream: BinaryIO, limit: int, over: Callable[[], Exception]
    ) -> HttpAnswer:
        """Write one file of at most ``limit`` bytes to ``stream``; the answer's body is that of an error.

        Raises:
            Exception: what ``over`` makes, where the file is larger.
            OSError: what ``stream`` raises.
        """
        with self._exchange(self.limits.file_seconds(limit), "GET", route, params) as answer:
            if answer.status_code >= 400:
                return HttpAnswer(answer.status_code, str(answer.reason), _beginning(answer))
            for piece in read(self.uri, answer, limit, over):
                stream.write(piece)
        return HttpAnswer(answer.status_code, str(answer.reason), b"")

    @contextmanager
    def _exchange(
        self, seconds: float, method: str, route: str, params: Mapping[str, str] | None, body: bytes = b""
    ) -> Iterator[requests.Response]:
        headers = {"Content-Type": "application/json"} if body else {}
        timeout = (CONNECT_SECONDS, self.limits.idle_seconds)
        try:
            with (
                self._allowance.exchange(seconds),
                self._session.request(
                    method,
                    f"{self.uri}/{route}",
                    params=params,
                    data=body or None,
                    headers=headers,
                    timeout=timeout,
                    stream=True,
                    allow_redirects=False,
                ) as answer,
            ):
                require_final(self.uri, answer)
                yield answer
        except (requests.RequestException, HTTPError) as error:
            raise unavailable(self.uri, type(error).__name__) from error


def session() -> requests.Session:
    """With the credentials and certificates that MLflow's client would use."""
    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, WatchedAdapter())
    made.headers["Accept-Encoding"] = "identity"
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    made.verify = verify_tls()
    made.auth = _credentials()
    made.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None
    return made


def require_final(uri: str, answer: requests.Response) -> None:
    """Refuse an answer that sends us elsewhere.

    Raises:
        InvalidInput: it does.
    """
    if 300 <= answer.status_code < 400:
        elsewhere = redacted(str(answer.headers.get("Location", "")))[:SHOWN]
        raise InvalidInput(
            f"{redacted(uri)} redirects to {elsewhere!a} ({answer.status_code})",
            expected="a server that answers itself: nothing is fetched from or sent to an address that a server names",
            next_step="if you trust that address, give it instead",
        )


def read(
    uri: str, answer: requests.Response, most: int, over: Callable[[], Exception] | None = None
) -> Iterator[bytes]:
    """The body, in pieces, as it came over the wire.

    Raises:
        InvalidInput: it is compressed.
        EvidenceInvalid: it has more than ``most`` bytes; or what ``over`` makes.
    """
    encoding = str(answer.headers.get("Content-Encoding", "identity")).strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidInput(
            f"{redacted(uri)} answers in {encoding[:SHOWN]!a}, which was not asked for",
            expected="an MLflow server that answers as asked (Accept-Encoding: identity)",
        )
    left = most
    while piece := answer.raw.read(min(CHUNK, left + 1), decode_content=False):
        left -= len(piece)
        if left < 0:
            raise over() if over else too_much(uri, most)
        yield piece


def too_slow(uri: str, seconds: float) -> ServiceUnavailable:
    """An answer that does not end."""
    return ServiceUnavailable(
        f"{redacted(uri)} did not finish an answer within {seconds:.3g} s",
        expected="whole answers, and files that come faster",
        next_step=f"try again; {raised_by('seconds')}",
    )


def too_much(uri: str, most: int) -> EvidenceInvalid:
    """An answer that is larger than anything an honest server says."""
    return EvidenceInvalid(
        f"{redacted(uri)} answers with more than {most} bytes", expected="less", next_step=raised_by("answer_bytes")
    )


def _beginning(answer: requests.Response) -> bytes:
    """The beginning of an error's text; none where it cannot be read, for the error is known without it."""
    if answer.headers.get("Content-Encoding"):
        return b""
    try:
        return bytes(answer.raw.read(REASON_BYTES, decode_content=False))
    except (requests.RequestException, HTTPError, OSError):
        return b""


def _credentials() -> requests.auth.AuthBase | None:
    if name := os.environ.get("MLFLOW_TRACKING_AUTH"):
        from mlflow.tracking.request_auth.registry import fetch_auth

        found: requests.auth.AuthBase = fetch_auth(name)
        return found
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return requests.auth.HTTPBasicAuth(user, password)
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return _Bearer(token) if token else None


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request
