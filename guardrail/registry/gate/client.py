"""What a client asks of a gated server beside MLflow's own calls: tickets, the ledger, who waits, and statements.

Over HTTP with requests alone, with the credentials of MLflow's client. Nothing that a server says is believed here;
whoever uses an answer checks it. Not covered: reading versions and files (``registry/read/rest_reader.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from guardrail.errors import AwaitingApproval, EvidenceInvalid, GuardrailError, InvalidInput, PolicyDenied
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.ledger.checkpoint import Checkpoint
from guardrail.evidence.statements.tickets import Ticket
from guardrail.records import Frozen
from guardrail.registry.gate.protocol import PREFIX, Health, LatestCheckpoint, LedgerPage, Submitted, Waiting, Waitings
from guardrail.registry.http.address import not_let_in, redacted, require_address, unavailable
from guardrail.registry.http.limits import AnswerLimits, raised_by
from guardrail.registry.http.transport import HttpAnswer as Response
from guardrail.registry.http.transport import Transport
from guardrail.registry.mlflow.mlflow_client import AWAITS, DENIES, GATE

Answer = TypeVar("Answer", bound=Frozen)


class NoGateError(InvalidInput):
    """At this address there is no gated server."""


class GateClient:
    """A client of the gated server at ``uri``.

    Every method raises:
        ServiceUnavailable: nobody answers.
        EvidenceInvalid: the gate refuses.
        PolicyDenied: somebody who may approve said no.
        AwaitingApproval: more persons must agree.
        InvalidInput: there is no gate at this address, or it does not know what was asked for.
    """

    def __init__(self, uri: str, limits: AnswerLimits | None = None) -> None:
        require_address(uri)
        if not uri.startswith(("http://", "https://")):
            raise NoGateError(
                f"{redacted(uri)} is no server", expected="the address of a gated server (guardrail server)"
            )
        self._transport = Transport(uri, limits)
        self._uri = self._transport.uri

    def ticket(self, request: bytes) -> Ticket:
        """Leave to try for the guarded alias that a signed request names; the same request gives the same ticket."""
        return self._read("POST", "tickets", Ticket, body=request)

    def ledger(self, after: int = 0, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
        """The envelopes of all entries after the one of this number, in order.

        Args:
            after: the number of an entry; 0 is before the first.
            progress: called after each page, with how many entries have come.

        Raises:
            EvidenceInvalid: the server gives more entries or bytes than a ledger may have.
        """
        most, entries, size = self._transport.limits, 0, 0
        while envelopes := self.page(after + entries).envelopes:
            entries, size = entries + len(envelopes), size + sum(map(len, envelopes))
            if entries > most.ledger_entries:
                raise self._endless(f"{most.ledger_entries} entries", "ledger_entries")
            if size > most.ledger_bytes:
                raise self._endless(f"{most.ledger_bytes} bytes", "ledger_bytes")
            if progress:
                progress(entries)
            yield from (envelope.encode("ascii", errors="replace") for envelope in envelopes)

    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, as the server says it; None where it has none, or does not know of any."""
        try:
            return self._read("GET", "checkpoint", LatestCheckpoint).checkpoint
        except InvalidInput:  # where there is no gate, or it lets nobody in, whoever asks for the ledger next is told
            return None

    def page(self, after: int = 0) -> LedgerPage:
        """Some entries, and the head."""
        return self._read("GET", "ledger", LedgerPage, params={"after": str(after)})

    def waiting(self, model: str = "") -> tuple[Waiting, ...]:
        """What waits for approvals, of one model or of all."""
        return self._read("GET", "waiting", Waitings, params={"model": model} if model else {}).waiting

    def submit(self, envelope: bytes) -> Submitted:
        """Hand in a train statement, an approval or rejection, an order or a denial."""
        return self._read("POST", "statements", Submitted, body=envelope)

    def statement(self, sha256: str) -> bytes:
        """An envelope that somebody handed in."""
        return self._call("GET", "statements", LARGEST, params={"sha256": sha256})

    def health(self) -> Health:
        """What the server finds when it looks at everything."""
        return self._read("GET", "doctor", Health)

    def _read(
        self, method: str, route: str, kind: type[Answer], *, body: bytes = b"", params: dict[str, str] | None = None
    ) -> Answer:
        data = self._call(method, route, 0, body, params)
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise self._no_gate() from error

    def _call(
        self, method: str, route: str, most: int, body: bytes = b"", params: dict[str, str] | None = None
    ) -> bytes:
        answer = self._transport.ask(method, f"{PREFIX}/{route}", params=params, body=body, most=most)
        if not answer.ok:
            raise self._refused(answer)
        return answer.body

    def _endless(self, much: str, limit: str) -> EvidenceInvalid:
        return EvidenceInvalid(
            f"the ledger of {redacted(self._uri)} has more than {much}",
            expected="a ledger that ends",
            next_step=raised_by(limit),
        )

    def _refused(self, answer: Response) -> GuardrailError:
        status, data = answer.status, answer.body
        said = data[:4000].decode("utf-8", errors="replace")
        message = _Message.read(data)
        if status == 429 or status >= 500:
            return unavailable(self._uri, f"{status} {message.removeprefix(GATE) or said}"[:500])
        for begins, kind in ((GATE, EvidenceInvalid), (AWAITS, AwaitingApproval), (DENIES, PolicyDenied)):
            if message.startswith(begins):
                return kind(f"{redacted(self._uri)} refuses: {message.removeprefix(begins)[:2000]}")
        if status in (404, 405) and not message:
            return self._no_gate()
        if status in (401, 403):
            return not_let_in(self._uri, message or said)
        return InvalidInput(f"{redacted(self._uri)} refuses: {message or said}")

    def _no_gate(self) -> NoGateError:
        return NoGateError(
            f"{redacted(self._uri)} does not answer like a gated server",
            expected="a server started with `guardrail server`",
        )


class _Message(BaseModel):
    """An error as MLflow says it, whatever else it says."""

    message: str = ""

    @classmethod
    def read(cls, data: bytes) -> str:
        try:
            return cls.model_validate_json(data).message
        except ValidationError:
            return ""
