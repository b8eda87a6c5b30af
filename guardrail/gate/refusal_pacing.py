"""Refusals are answered at a bounded rate: who keeps being refused cannot keep the server busy with it.

Known as tarpitting (Postfix slows down clients whose commands fail, RFC 5321 section 7.8 allows it). Each address has a
token bucket: some refusals at once, then so many a second, in the order in which they fell. The answer waits, no thread
does. What the gate did before and is asked for again is paced likewise; nothing else is ever slowed down.
Not covered: gunicorn, whose answers would hold a thread each; what MLflow answers as an invalid request (400), which
is as cheap as any request; and whoever does not wait for answers, or has many addresses.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    from flask import Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

RATE = "GUARDRAIL_REFUSALS_PER_SECOND"
"""The variable that says how many refusals a second one worker answers to one address."""
AT_ONCE, PER_SECOND, LONGEST = 8, 1.0, 15.0
"""Refusals of one worker to one address: so many at once, then so many a second, none later than so many seconds."""
UNCHANGED = b"guardrail-unchanged"
"""The header of an answer to what was done already."""
ADDRESSES = 1024
"""So many addresses are remembered, those that were refused last."""
READS = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSED_READS = frozenset({401, 403, 503})
REFUSED_WRITES = frozenset({401, 403, 404, 405, 503})


@dataclass
class TokenBucket:
    """When the next refusal is due, if they were spread evenly; it lies up to ``AT_ONCE`` refusals in the past."""

    due: float

    def delay(self, now: float, per_second: float) -> float:
        """Take a place; the seconds until its answer."""
        self.due = max(self.due, now - AT_ONCE / per_second)
        self.due = min(self.due + 1 / per_second, now + LONGEST)
        return max(0.0, self.due - now)


class Pacing:
    """An application whose refusals are paced.

    Args:
        app: the application.
        per_second: so many refusals a second.
        clock: seconds, from any moment on.
        sleep: waits so many seconds.
    """

    def __init__(
        self, app: Asgi, per_second: float = PER_SECOND, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._app, self._per_second, self._clock, self._sleep = app, per_second, clock, sleep
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def paced(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and _is_paced(scope["method"], message):
                await self._sleep(self._delay((scope.get("client") or ("",))[0]))
            await send(message)

        await self._app(scope, receive, paced)

    def _delay(self, address: str) -> float:
        now = self._clock()
        bucket = self._buckets.setdefault(address, TokenBucket(now - AT_ONCE / self._per_second))
        self._buckets.move_to_end(address)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.delay(now, self._per_second)


def rate(environ: Mapping[str, str]) -> float:
    """How many refusals a second the operator wants.

    Raises:
        InvalidInput: no number above 0.
    """
    text = environ.get(RATE, str(PER_SECOND))
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise InvalidInput(f"{RATE} is {text!r}", expected="a number above 0, such as 1")
    return found


def unchanged() -> None:
    """Say that the request that is served asks for what was done already."""
    from flask import after_this_request, has_request_context

    if has_request_context():
        after_this_request(_marked)


def _marked(response: Response) -> Response:
    response.headers[UNCHANGED.decode()] = "1"
    return response


def _is_paced(method: str, message: MutableMapping[str, Any]) -> bool:
    return is_refusal(method, message["status"]) or any(name == UNCHANGED for name, _ in message.get("headers", ()))


def is_refusal(method: str, status: int) -> bool:
    """Whether an answer says no to what was asked, rather than that it was asked wrongly or is not there to read."""
    return status in (REFUSED_READS if method in READS else REFUSED_WRITES)
