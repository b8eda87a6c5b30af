"""Tickets and checkpoints of a real server over HTTP: nobody without a key adds a line, and none slows verifying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from bypass import session
from gate_chains import drawn, proven, staged
from gate_fixtures import Pair, gate_of, promoted
from gate_world import say
from gated_servers import People, Running, gated_server, people
from matrix import Cell

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.ledger.checkpoint import EVERY
from guardrail.evidence.statements.ticket_requests import TICKET_REQUEST_TYPE, TicketRequest, signed_request
from guardrail.gate.ledger.journal import Journal, draft
from guardrail.registry.gate.client import GateClient
from guardrail.registry.gate.protocol import PREFIX
from guardrail.registry.mlflow.mlflow_client import GATE

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
ALIAS = "production"


def _by(who: People, name: str, model: str = "guarded", alias: str = ALIAS, hours: float = 0) -> bytes:
    """A request by one of the people, made some hours from now, that names the trainer."""
    now, key = datetime.now(UTC) + timedelta(hours=hours), getattr(who, name).private
    return signed_request(model, alias, key, now=now, bind=[who.root.public.keyid])


def _endless(who: People) -> bytes:
    now = datetime.now(UTC)
    asked = TicketRequest(
        alias=ALIAS,
        bind=(who.root.public.keyid,),
        expires=now + timedelta(hours=1),
        model="guarded",
        not_before=now,
        request=sha256(b"drawn"),
    )
    forever = asked.model_copy(update={"expires": now + timedelta(days=3650)})
    return sign(canonical(forever), who.root.private, payload_type=TICKET_REQUEST_TYPE)


FLOODS: dict[str, Callable[[People], bytes]] = {
    "unsigned": lambda _: b'{"alias":"production","model":"guarded"}',
    "by a stranger": lambda who: _by(who, "stranger"),
    "by who evaluates": lambda who: _by(who, "decider"),
    "by the server's key": lambda who: _by(who, "server"),
    "expired": lambda who: _by(who, "root", hours=-2),
    "from the future": lambda who: _by(who, "root", hours=2),
    "that never expires": _endless,
    "for another model": lambda who: _by(who, "root", model="innocent"),
    "for another alias": lambda who: _by(who, "root", alias="staging"),
    "as a statement of the data stage": lambda who: sign(b"{}", who.root.private),
    "too long": lambda _: b" " * 5000,
}


@pytest.mark.every_cell
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_requests_that_may_not_be_made_adds_nothing(pair: Pair, gate: GateClient, flood: str) -> None:
    before, body = gate.page().head, FLOODS[flood](pair.people)
    for _ in range(5):
        answer = session().post(f"{pair.gated.uri}/{PREFIX}/tickets", data=body, timeout=30)
        assert (answer.status_code, answer.json()["message"][: len(GATE)]) == (403, GATE)
    assert gate.page().head == before


@pytest.mark.every_cell
def test_a_request_that_is_replayed_gives_the_same_ticket_and_no_line(pair: Pair, gate: GateClient) -> None:
    request = _by(pair.people, "root")
    ticket, before = gate.ticket(request), gate.page().head
    for _ in range(5):
        again = requests.Session() if pair.gated.cell.auth == "plain" else session()
        answer = again.post(f"{pair.gated.uri}/{PREFIX}/tickets", data=request, timeout=30)
        assert answer.content == canonical(ticket)
    assert gate.page().head == before
    assert gate.statement(sha256(request)) == request


@pytest.mark.every_cell
def test_proposing_what_others_decided_adds_no_line(
    pair: Pair, gate: GateClient, client: MlflowClient, tmp_path: Path
) -> None:
    """A decision can be read by anybody; whoever proposes it for another model shows no key."""
    from guardrail.registry.record import registered_model as models

    denied = proven(tmp_path / "a", gate, pair.people.signers, model="commanded", safe=False, seed=7)
    experiment = client.create_experiment(f"copied-{tmp_path.name}")
    run = client.create_run(experiment)
    logged = client.create_logged_model(experiment, source_run_id=run.info.run_id)
    from guardrail.evidence.bundle import write

    (tmp_path / "laid").mkdir()
    write(denied, tmp_path / "laid")
    client.log_model_artifacts(logged.model_id, str(tmp_path / "laid"))
    client.finalize_logged_model(logged.model_id, "READY")
    before = gate.page().head
    from mlflow.exceptions import MlflowException

    models.ensure_registered(client, "guarded")
    for _ in range(2):
        with pytest.raises(MlflowException, match=GATE):
            client.create_model_version("guarded", f"models:/{logged.model_id}", model_id=logged.model_id)
    assert gate.page().head == before


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, People]]:
    """A server whose ledger held nearly as many unused tickets as a checkpoint waits for, from before requests were
    signed; then a model was promoted."""
    folder = tmp_path_factory.mktemp("flooded")
    who = people(tmp_path_factory.mktemp("flooded-people"))
    ledger = folder / "ledger" / "ledger"
    journal = Journal(ledger, ledger.with_name("ledger.head"), who.server.private, [who.server.public])
    for number in range(EVERY - 3):
        nonce = sha256(str(number).encode())
        journal.append(lambda _, n=nonce: draft("proposal", model="guarded", alias=ALIAS, nonce=n))  # type: ignore[misc]
    with gated_server(folder, Cell(), who) as running:
        promoted(running, who, folder / "bundle", "guarded")
        yield running, who


def _by_trust(running: Running, who: People) -> tuple[object, ...]:
    return ("--trust", who.trust_file, "--root", who.root.public_file, "--tracking-uri", running.uri)


def test_a_promoted_version_verifies_from_the_servers_checkpoint(flooded: tuple[Running, People]) -> None:
    running, who = flooded
    found = gate_of(running).checkpoint()
    assert found is not None
    assert len(found.entries) + len(found.attempts) < 10
    said = say("verify", f"guarded@{ALIAS}", *_by_trust(running, who))
    assert (said.code, f"read from the checkpoint in entry {EVERY + 1}" in said.out) == (0, True), said.out
    whole = say("verify", f"guarded@{ALIAS}", *_by_trust(running, who), "--head", _head(running))
    assert (whole.code, "read from the checkpoint" in whole.out) == (0, False), whole.out


def test_an_auditor_finds_the_servers_checkpoint_true(flooded: tuple[Running, People], tmp_path: Path) -> None:
    running, who = flooded
    ledger, key = tmp_path / "ledger", who.server.public_file
    assert say("ledger", "fetch", "--tracking-uri", running.uri, "--out", ledger).code == 0
    said = say("ledger", "verify", ledger, "--key", key, "--head", _head(running))
    assert (said.code, "1 checkpoint, each what the entries before it add up to" in said.out) == (0, True), said.out
    assert gate_of(running).health().problems == ()


def test_an_unsigned_ticket_from_before_is_bound_by_nobody(flooded: tuple[Running, People], tmp_path: Path) -> None:
    running, who = flooded
    gate = gate_of(running)
    old = drawn(gate, who.signers).model_copy(update={"nonce": sha256(b"0")})
    with pytest.raises(EvidenceInvalid, match="before requests were signed"):
        staged(tmp_path / "a", gate, who.signers, ticket=old)


def _head(running: Running) -> Path:
    return running.destination.parent / "ledger" / "ledger.head"
