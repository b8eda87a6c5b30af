"""A little gated server for tests of its clients: real HTTP, sealed files, a signed ledger, statements that count.

It keeps the promises of ``guardrail/registry/gate/protocol.py`` and answers the few calls of MLflow that ``RestReader``
makes. What it must not be used for: whether the gate holds. It admits whatever a test puts in; the true server is
tested in ``tests/server``. Not a test file.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gate_cast import ALIAS, MODEL, Cast
from stage_chains import check_chain

from guardrail.errors import AwaitingApproval, EvidenceInvalid, GuardrailError, InvalidInput, PolicyDenied
from guardrail.evidence.bundle import Bundle, write
from guardrail.evidence.chain.stage_chain import ChainTarget
from guardrail.evidence.digest import GENESIS, canonical, digest, manifest, manifest_digest, sha256
from guardrail.evidence.envelope import signers, unverified_payload
from guardrail.evidence.ledger.checkpoint import Checkpoint
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.evidence.ledger.follows import LedgerChain
from guardrail.evidence.ledger.ledger_file import LedgerFile, envelopes, read_head
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE, next_entry
from guardrail.evidence.ledger.sums import Sums
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.stage_statement import Binding, parse
from guardrail.evidence.statements.ticket_requests import TICKET_REQUEST_TYPE, read_request
from guardrail.evidence.statements.tickets import LIFETIME, Ticket
from guardrail.evidence.trust.trust_file import Trust
from guardrail.records import Frozen
from guardrail.registry.gate.protocol import (
    PREFIX,
    Health,
    LatestCheckpoint,
    LedgerPage,
    RegistryProblem,
    Submitted,
    Waiting,
    Waitings,
)
from guardrail.registry.mlflow.mlflow_client import AWAITS, DENIES, GATE
from guardrail.registry.mlflow.tags import MODEL_ID, tags

PROXY = "api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Candidate:
    """Evidence that was admitted."""

    bundle: Bundle
    sealed: str
    since: datetime
    votes: list[bytes] = field(default_factory=list)
    closed: bool = False


@dataclass
class FakeGate:
    """The server's memory and files below ``root``."""

    root: Path
    who: Cast
    trust: Trust
    page: int = 3
    """Small, so that clients must ask for several."""
    candidates: dict[str, Candidate] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    problems: tuple[RegistryProblem, ...] = ()
    uri: str = ""
    attempts: int = 0
    """Adapters that were bound since the last promotion."""
    revoked: set[str] = field(default_factory=set)
    false: Callable[[Checkpoint], Checkpoint] = field(default=lambda checkpoint: checkpoint)
    """How a server lies in its checkpoints."""
    kept: Checkpoint | None = None
    """The last checkpoint."""

    @property
    def ledger(self) -> LedgerFile:
        return LedgerFile(self.root / "ledger", self.root / "head")

    @property
    def head(self) -> Head | None:
        return read_head(self.ledger.head_path) if self.ledger.head_path.exists() else None

    @property
    def protected_approvals(self) -> int:
        return self.trust.models[0].aliases[0].approvals

    def note(self, kind: EntryKind, **what: Any) -> Head:
        """One more entry."""
        return self.ledger.append(
            lambda head: next_entry(head, time=datetime.now(UTC), kind=kind, **what), self.who["server"].private
        )

    def add_checkpoint(self) -> Checkpoint:
        """Commit to what all entries add up to, or to what is ``false``."""
        sums, chain = Sums(), LedgerChain(None)
        for data in envelopes(self.ledger.path):
            entry = Entry.model_validate_json(unverified_payload(data, payload_type=LEDGER_TYPE))
            after = chain.follow(entry, sha256(data))
            sums.take(entry, after)
        self.kept = self.false(sums.checkpoint())
        self.note("checkpoint", subject=digest(self.kept))
        return self.kept

    def ticket(self, request: bytes) -> Ticket:
        """Leave to try."""
        asked = read_request(request)
        model, alias = asked.model, asked.alias
        nonce, now = secrets.token_hex(32), datetime.now(UTC)
        self._keep(request)
        (asker,) = signers(request, payload_type=TICKET_REQUEST_TYPE)
        head = self.note("proposal", model=model, alias=alias, nonce=nonce, statement=sha256(request), note=asker)
        return Ticket(model=model, alias=alias, nonce=nonce, issued=now, expires=now + LIFETIME, ledger=head.digest)

    def admit(self, bundle: Bundle) -> str:
        """Seal and note; promoted at once where nobody has to agree. Returns the evidence's digest."""
        place = self.root / "sealed" / "new"
        place.mkdir(parents=True)
        write(bundle, place)
        sealed = manifest_digest(manifest(place))
        place.rename(place.with_name(sealed))
        evidence, decision, nonce = bundle.evidence_sha256, bundle.decision, _nonce(bundle)
        self.candidates[evidence] = Candidate(bundle, sealed, datetime.now(UTC))
        self.note(
            "decision",
            model=MODEL,
            alias=ALIAS,
            evidence=evidence,
            subject=decision.manifest,
            nonce=nonce,
            note=f"sealed/{sealed} models:/m-1",
        )
        if not self.protected_approvals:
            self.promote(evidence)
        return evidence

    def promote(self, evidence: str) -> Submitted:
        """The next version, and the alias."""
        found = self.candidates[evidence]
        version, decision = str(len(self.versions) + 1), found.bundle.decision
        said = tags(decision, evidence, signers(found.bundle.envelope)) | {MODEL_ID: "m-1"}
        self.versions[version] = {
            "name": MODEL,
            "version": version,
            "status": "READY",
            "source": f"mlflow-artifacts:/sealed/{found.sealed}",
            "tags": [{"key": key, "value": value} for key, value in said.items()],
        }
        self.aliases[ALIAS] = version
        found.closed, self.attempts = True, 0
        head = self.note(
            "promotion", model=MODEL, alias=ALIAS, evidence=evidence, subject=decision.manifest, version=version
        )
        return Submitted(state="promoted", entry=head, model=MODEL, alias=ALIAS, version=version)

    def submit(self, data: bytes) -> Submitted:
        """A vote or an order."""
        self._keep(data)
        if orders.is_order(data):
            return self._order(data)
        said = parse(unverified_payload(data))
        return self._bind(said.bound, sha256(data)) if said.stage == "train" else self._vote(data)

    def _keep(self, data: bytes) -> None:
        kept = self.root / "statements" / sha256(data)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)

    def _bind(self, bound: Binding, digest: str) -> Submitted:
        self.attempts += 1
        head = self.note(
            "proposal", model=MODEL, alias=ALIAS, nonce=bound.nonce, subject=bound.manifest, statement=digest
        )
        return Submitted(state="recorded", entry=head, attempt=self.attempts)

    def _vote(self, data: bytes) -> Submitted:
        said = parse(unverified_payload(data)).predicate
        evidence, found = next(
            (e, c) for e, c in self.candidates.items() if sha256(c.bundle.stages["evaluate"]) == said.after
        )
        target = ChainTarget(MODEL, ALIAS, said.bound.nonce)
        missing, kind = 0, "approval"
        try:
            made = (*found.bundle.stages.values(), *found.votes, data)
            check_chain(made, self.trust, target, now=datetime.now(UTC))
        except AwaitingApproval as error:
            missing = int(error.expected.split()[0])
        except PolicyDenied:
            kind, found.closed = "rejection", True
        found.votes.append(data)
        what = {
            "model": MODEL,
            "alias": ALIAS,
            "evidence": evidence,
            "subject": said.bound.manifest,
            "statement": sha256(data),
            "nonce": said.bound.nonce,
        }
        head = self.note("rejection" if kind == "rejection" else "approval", **what)
        if kind == "rejection":
            return Submitted(state="recorded", entry=head, model=MODEL, alias=ALIAS)
        if missing:
            return Submitted(state="waiting", entry=head, model=MODEL, alias=ALIAS, missing=missing)
        return self.promote(evidence)

    def _order(self, data: bytes) -> Submitted:
        order, _ = orders.verified(data, self.trust, persons=max(1, self.protected_approvals), now=datetime.now(UTC))
        if isinstance(order, orders.Revocation):
            self.revoked.add(order.manifest)
            head = self.note("revocation", subject=order.manifest, statement=sha256(data), note=order.reason)
            return Submitted(state="recorded", entry=head)
        if order.from_version != self.aliases[ALIAS] or order.ledger != (self.head.digest if self.head else GENESIS):
            raise EvidenceInvalid("the order is for another situation")
        self.aliases[ALIAS] = order.to_version
        head = self.note(
            "rollback",
            model=MODEL,
            alias=ALIAS,
            version=order.to_version,
            subject=order.manifest,
            statement=sha256(data),
        )
        return Submitted(state="rolled-back", entry=head, model=MODEL, alias=ALIAS, version=order.to_version)

    def waiting(self) -> Waitings:
        """Who waits."""
        return Waitings(
            waiting=tuple(
                Waiting(
                    model=MODEL,
                    alias=ALIAS,
                    evidence=evidence,
                    manifest=c.bundle.decision.manifest,
                    sealed=c.sealed,
                    nonce=_nonce(c.bundle),
                    since=c.since,
                    approvals=self.protected_approvals,
                    approved_by=self.trust.persons_of(tuple(key for vote in c.votes for key in signers(vote))),
                    experiment_id="1",
                    run_id=evidence[:32],
                )
                for evidence, c in self.candidates.items()
                if not c.closed
            )
        )

    def health(self) -> Health:
        """What a test says that was found."""
        return Health(
            models=1,
            versions=len(self.versions),
            entries=self.head.number if self.head else 0,
            head=self.head,
            problems=self.problems,
        )

    def ledger_page(self, after: int) -> LedgerPage:
        """Some entries."""
        lines = list(envelopes(self.ledger.path)) if self.ledger.path.exists() else []
        return LedgerPage(envelopes=tuple(line.decode() for line in lines[after : after + self.page]), head=self.head)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        """One call."""
        ours, _, rest = path.partition(f"{PREFIX}/")
        if ours == "" and rest:
            return self._ours(method, rest, query, body)
        if path.startswith(f"{PROXY}/"):
            return self._file(path.removeprefix(f"{PROXY}/")).read_bytes()
        if path == PROXY:
            return json.dumps(
                {
                    "files": [
                        {"path": p.name, "is_dir": p.is_dir(), "file_size": str(p.stat().st_size)}
                        for p in sorted(self._file(query["path"]).iterdir())
                    ]
                }
            ).encode()
        version = self.aliases.get(query["alias"]) if "alias" in query else query.get("version")
        if version not in self.versions or query["name"] != MODEL:
            raise InvalidInput("no such version")
        if "alias" in query:
            self._require_valid(str(version))
        return json.dumps({"model_version": self.versions[version]}).encode()

    def _require_valid(self, version: str) -> None:
        said = {tag["key"]: tag["value"] for tag in self.versions[version]["tags"]}
        if said["guardrail.adapter_sha256"] in self.revoked:
            raise EvidenceInvalid("the adapter behind the alias was revoked")
        if datetime.fromisoformat(said["guardrail.valid_until"]) < datetime.now(UTC):
            raise EvidenceInvalid("the evidence behind the alias expired")

    def _ours(self, method: str, route: str, query: dict[str, str], body: bytes) -> bytes:
        record: Frozen
        if route == "ledger":
            record = self.ledger_page(int(query["after"]))
        elif route == "checkpoint":
            record = LatestCheckpoint(checkpoint=self.kept)
        elif route == "waiting":
            record = self.waiting()
        elif route == "doctor":
            record = self.health()
        elif (method, route) == ("POST", "statements"):
            record = self.submit(body)
        else:
            return (self.root / "statements" / Path(query["sha256"]).name).read_bytes()
        return canonical(record)

    def _file(self, path: str) -> Path:
        return self.root / unquote(path)


def _nonce(bundle: Bundle) -> str:
    return parse(unverified_payload(bundle.stages["evaluate"])).bound.nonce


@contextmanager
def serving(gate: FakeGate) -> Iterator[FakeGate]:
    """The server, answering on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, data = 200, gate.answer(self.command, parts.path.lstrip("/"), query, body)
            except (InvalidInput, FileNotFoundError) as error:
                absent = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": str(error)}
                status, data = 404, json.dumps(absent).encode()
            except GuardrailError as error:
                begins = {AwaitingApproval: AWAITS, PolicyDenied: DENIES}.get(type(error), GATE)
                message = {"error_code": "PERMISSION_DENIED", "message": begins + error.message()}
                status, data = 403, json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer  # noqa: N815  (the names are http.server's)

        def log_message(self, *_: object) -> None:
            """Tests print what commands say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gate.uri = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
