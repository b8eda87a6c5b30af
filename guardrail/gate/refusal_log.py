"""The server's log: that the gate is active and over what, and every refusal: who, what, why, on one line.

What a client sends stands in these lines, so control characters are escaped and lines are cut; and a flood of refusals
cannot fill a disk: beyond a burst only so many a second are written, and how many were not is.
Not covered: other loggers of MLflow, and keeping the log (rotate it as any server's).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guardrail import logs
from guardrail.errors import GuardrailError

LOGGER = "guardrail.server"
LONGEST = 2000
BURST, PER_SECOND = 200, 5.0
_logger = logs.logger(LOGGER)


def make_visible() -> None:
    """Have the gate's log written to stderr where nobody configured another place: neither server does."""
    if _logger.level == logging.NOTSET:
        _logger.setLevel(logging.INFO)
    if not _logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s"))
        _logger.addHandler(handler)


def one_line(text: object) -> str:
    """The text with everything escaped that could end a line or steer a terminal, cut where it is long."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}… ({len(plain)} characters)"


@dataclass
class LineBudget:
    """How much may be written: a burst, then a steady rate (a token bucket)."""

    clock: Callable[[], float] = time.monotonic
    tokens: float = float(BURST)
    refilled: float | None = None
    suppressed: int = 0
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> int | None:
        """How many were not written since the last one that was, or None where this one is not either."""
        with self._mutex:
            now = self.clock()
            passed = now - self.refilled if self.refilled is not None else 0.0
            self.tokens, self.refilled = min(BURST, self.tokens + passed * PER_SECOND), now
            if self.tokens < 1.0:
                self.suppressed += 1
                return None
            self.tokens -= 1.0
            missed, self.suppressed = self.suppressed, 0
            return missed


_bucket = LineBudget()


def log_refusal(error: GuardrailError, bucket: LineBudget = _bucket) -> None:
    """Write down that a request was refused: who asked, what for, and why."""
    _write(_asked, error.got, bucket)


def log_closed(scope: Mapping[str, Any], bucket: LineBudget = _bucket) -> None:
    """Write down that a route which is off was asked for; it is answered before any of MLflow's applications."""
    host = (scope.get("client") or ("nobody known",))[0]
    _write(lambda: f"{host} {scope.get('path', '')}", "the assistant is off", bucket)


def _write(asked: Callable[[], str], why: str, bucket: LineBudget) -> None:
    missed = bucket.take()
    if missed is None:
        return
    if missed:
        _logger.warning("%d refusals before this one were not written: there were too many", missed)
    _logger.warning("refused %s: %s", one_line(asked()), one_line(why))


def _asked() -> str:
    """Who asked for what, as far as the request says; the user is MLflow's, where it has users."""
    from flask import has_request_context, request

    if not has_request_context():
        return "a request outside MLflow's Flask routes"
    user = request.authorization.username if request.authorization else None
    who = f"{user or 'nobody named'} at {request.remote_addr}"
    return " ".join([who, request.method, request.path, *_named()])


def _named() -> list[str]:
    """The model and the alias that a small request names, in its address or its JSON."""
    from flask import request

    small = request.is_json and (request.content_length or 0) <= 1 << 16
    body = request.get_json(silent=True) if small else None
    said = {**request.args.to_dict(), **(body if isinstance(body, dict) else {})}
    names = ("name", "model", "new_name", "alias", "version", "key")
    return [f"{name}={str(said[name])[:256]!r}" for name in names if name in said]
