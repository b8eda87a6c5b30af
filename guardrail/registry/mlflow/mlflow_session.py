"""MLflow's own client, held to the bounds of ours while it talks to one server.

MLflow follows redirects (with the body of an upload, too), reads answers of any size, waits as long as ``Retry-After``
says, and sends large files to whatever addresses the server names for their parts. Here every call of its REST client
goes to the one server (and to locations that the user named), and is answered whole, in time, by a bounded body; it is
tried again here, because urllib3 would first read a failed answer to its end. The limits: ``registry/http/limits.py``.
Not covered: storage that MLflow reaches otherwise (S3, Azure, …), which the user must have named (``destinations.py``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import rewind_body

from guardrail.errors import EvidenceInvalid
from guardrail.registry.http.address import redacted
from guardrail.registry.http.limits import AnswerLimits, limits
from guardrail.registry.http.transport import Allowance, WatchedAdapter, read, require_final

NO_PARTS = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false"}
"""A server may else have files of 500 MB or more sent to, and fetched from, addresses that it names."""
LONGEST_BACKOFF = 30.0
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LOCK = threading.Lock()
_ACTIVE: list[SessionBounds] = []


class SessionBounds:
    """Which addresses may be asked, and what is left of what they may take."""

    def __init__(self, uri: str, given: AnswerLimits, also: Sequence[str]) -> None:
        self.uri, self.limits = uri, given
        self.allowance = Allowance(uri, given)
        self._origins = {_origin(address) for address in (uri, *also)}

    def covers(self, address: str) -> bool:
        """Whether this is an address of that server, or of a named location."""
        return _origin(address) in self._origins


class BoundedAdapter(WatchedAdapter):
    """Sends a request, again where that may help, and reads the answer."""

    def __init__(self, retries: int, backoff: float, codes: Collection[int]) -> None:
        super().__init__(max_retries=0)
        self._retries, self._backoff, self._codes = retries, backoff, frozenset(codes)

    def send(self, request: requests.PreparedRequest, *given: Any, **more: Any) -> requests.Response:
        """As requests does, with our bounds; ``stream`` changes nothing.

        Raises:
            ServiceUnavailable: it takes too long.
            InvalidInput: it redirects, or is compressed.
            EvidenceInvalid: the address is not the server's, or the answer is too large.
        """
        bounds = _bounds_of(str(request.url))
        request.headers["Accept-Encoding"] = "identity"
        for left in range(self._retries, -1, -1):
            try:
                answer = self._once(bounds, request, *given, **{**more, "stream": True})
                if not left or answer.status_code not in self._codes:
                    return answer
            except (requests.ConnectionError, requests.Timeout):
                if not left:
                    raise
            time.sleep(min(LONGEST_BACKOFF, self._backoff * 2 ** (self._retries - left)))
            body: Any = request.body  # a file, too, whatever its type says
            if not isinstance(body, (str, bytes, type(None))):
                rewind_body(request)
        raise AssertionError("unreachable")

    def _once(
        self, bounds: SessionBounds, request: requests.PreparedRequest, *given: Any, **more: Any
    ) -> requests.Response:
        with bounds.allowance.exchange(_seconds(bounds.limits, request)):
            answer = super().send(request, *given, **more)
            try:
                require_final(bounds.uri, answer)
                answer._content = b"".join(read(bounds.uri, answer, bounds.limits.answer_bytes))
            finally:
                answer.close()
        answer._content_consumed = True  # type: ignore[attr-defined]
        return answer


@contextmanager
def bounded(uri: str, also: Sequence[str] = (), given: AnswerLimits | None = None) -> Iterator[None]:
    """Hold MLflow's REST client to the server at ``uri``, and to the addresses of ``also``, until the end.

    For the whole process; several may be held at once.
    """
    from mlflow.utils import request_utils

    if not _is_http(uri):
        yield
        return
    bounds = SessionBounds(uri, given or limits(), [address for address in also if _is_http(address)])
    with _LOCK:
        if not _ACTIVE:
            request_utils.__dict__["_unbounded_session"] = request_utils._get_request_session
            request_utils._get_request_session = _session
        _ACTIVE.append(bounds)
    try:
        yield
    finally:
        with _LOCK:
            _ACTIVE.remove(bounds)
            if not _ACTIVE:
                request_utils._get_request_session = request_utils.__dict__.pop("_unbounded_session")


def _session(
    max_retries: int,
    backoff_factor: float,
    backoff_jitter: float,
    retry_codes: Collection[int],
    raise_on_status: bool,
    respect_retry_after_header: bool,
) -> requests.Session:
    """What MLflow asks for before each call, by the same signature."""
    del backoff_jitter, raise_on_status, respect_retry_after_header
    made = requests.Session()
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("http://", "https://"):
        made.mount(scheme, BoundedAdapter(max_retries, backoff_factor, retry_codes))
    return made


def _bounds_of(address: str) -> SessionBounds:
    with _LOCK:
        found = next((bounds for bounds in reversed(_ACTIVE) if bounds.covers(address)), None)
        known = ", ".join(redacted(bounds.uri) for bounds in _ACTIVE)
    if found is None:
        raise EvidenceInvalid(
            f"MLflow would send a request to {redacted(address)!a}",
            expected=f"{known}: what a server names is not asked",
            next_step="if you trust that place, name it by --artifact-location or GUARDRAIL_ARTIFACT_LOCATION",
        )
    return found


def _seconds(given: AnswerLimits, request: requests.PreparedRequest) -> float:
    """As the limits say, or as long as the user lets MLflow wait."""
    wait, size = os.environ.get(TIMEOUT, ""), int(request.headers.get("Content-Length") or 0)
    return max(given.file_seconds(size), float(wait) if wait.isascii() and wait.isdigit() else 0.0)


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
