"""The gate's own routes beside MLflow's: tickets, the ledger, who waits, statements, the doctor.

On MLflow's Flask application, so that its host checks and, where there are users, its authentication come before them.
MLflow denies users other than administrators what it does not know, so ``USERS`` are told to it; the doctor is not,
because it reads every sealed byte. What changes anything carries its own signature.
Not covered: what statements mean (``gate/statement_desk.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import LARGEST
from guardrail.gate import ticket_office
from guardrail.gate.app.awaiting_approval import waiting
from guardrail.gate.app.doctor import examine_all
from guardrail.gate.mlflow_errors import refusal
from guardrail.gate.refusal_pacing import unchanged
from guardrail.gate.registrar import Registrar
from guardrail.gate.statement_desk import Desk
from guardrail.records import Frozen
from guardrail.registry.gate.protocol import PAGE, PREFIX, Health, LatestCheckpoint, LedgerPage, Submitted, Waitings

if TYPE_CHECKING:
    from flask import Flask, Response

USERS = (
    ("tickets", "POST"),
    ("ledger", "GET"),
    ("checkpoint", "GET"),
    ("waiting", "GET"),
    ("statements", "POST"),
    ("statements", "GET"),
)
"""What every user may ask, by route and method."""
SMALL = 4096
"""The most bytes of a request for a ticket."""


def serve(app: Flask, registrar: Registrar) -> None:
    """Add the routes to MLflow's application."""
    routes = Routes(registrar)
    for rule, method, view in (
        ("tickets", "POST", routes.ticket),
        ("ledger", "GET", routes.ledger),
        ("checkpoint", "GET", routes.checkpoint),
        ("waiting", "GET", routes.waiting),
        ("statements", "POST", routes.submit),
        ("statements", "GET", routes.statement),
        ("doctor", "GET", routes.doctor),
    ):
        app.add_url_rule(f"/{PREFIX}/{rule}", f"guardrail-{view.__name__}", _answering(view), methods=[method])


class Routes:
    """What each route answers."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._looking = threading.Lock()

    def ticket(self) -> Frozen:
        """Issue a ticket."""
        court = self._registrar.court()
        return ticket_office.issue(self._registrar.journal, court.trust, _body(SMALL), court.now)

    def ledger(self) -> LedgerPage:
        """Some entries."""
        journal = self._registrar.journal
        found = tuple(envelope.decode("ascii") for envelope in journal.page(_after(), PAGE))
        return LedgerPage(envelopes=found, head=journal.head())

    def checkpoint(self) -> LatestCheckpoint:
        """What the entries before the last checkpoint's add up to."""
        return LatestCheckpoint(checkpoint=self._registrar.journal.checkpoint())

    def waiting(self) -> Waitings:
        """What waits for approvals."""
        from flask import request

        return waiting(self._registrar, request.args.get("model", ""))

    def submit(self) -> Submitted:
        """Take a statement."""
        court, journal = self._registrar.court(), self._registrar.journal
        before = journal.head()
        found = Desk(journal, self._registrar, court).take(_body(LARGEST))
        if journal.head() == before:
            unchanged()
        return found

    def statement(self) -> bytes:
        """A statement again."""
        from flask import request

        return self._registrar.journal.statement(request.args.get("sha256", ""))

    def doctor(self) -> Health:
        """Look at everything; one look at a time over all workers, because it reads every sealed byte."""
        if not self._looking.acquire(blocking=False):
            raise ServiceUnavailable("somebody is looking at everything already", next_step="try again later")
        try:
            with self._registrar.sealing().queues.looks.turn():
                return examine_all(self._registrar)
        finally:
            self._looking.release()


def _answering(view: Callable[..., Frozen | bytes]) -> Callable[..., Response]:
    """The view's answer as JSON; our errors as MLflow says errors."""

    def answer(**given: str) -> Response:
        from flask import Response
        from mlflow.exceptions import MlflowException

        try:
            found = view(**given)
        except GuardrailError as error:
            return _failed(error)
        except MlflowException as error:
            return Response(error.serialize_as_json(), error.get_http_status_code(), mimetype="application/json")
        return Response(found if isinstance(found, bytes) else canonical(found), mimetype="application/json")

    return answer


def _failed(error: GuardrailError) -> Response:
    from flask import Response

    raised = refusal(error)
    status = 400 if isinstance(error, InvalidInput) else raised.get_http_status_code()
    return Response(raised.serialize_as_json(), status, mimetype="application/json")


def _body(limit: int) -> bytes:
    """The request's body, never more than it may have."""
    from flask import request

    if (request.content_length or 0) > limit:
        raise EvidenceInvalid(f"the request has {request.content_length} bytes", expected=f"at most {limit}")
    data = request.stream.read(limit + 1)
    if len(data) > limit:
        raise EvidenceInvalid(f"the request has more than {limit} bytes", expected="less")
    return bytes(data)


def _after() -> int:
    from flask import request

    text = request.args.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidInput(f"after={text[:40]!r}", expected="the number of an entry")
    return int(text)
