"""What persons may do on a gated server: agree, refuse, move an alias back, take an adapter out; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from bypass import session
from gate_chains import proven, vote
from gate_fixtures import Pair, gate_of, promoted
from gate_trust import Person

from guardrail.errors import AwaitingApproval, EvidenceInvalid, InvalidInput, PolicyDenied
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.chain.bound_records import statement
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import add_signature, sign, unverified_payload
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation, Rollback
from guardrail.evidence.statements.stage_statement import Approval, parse
from guardrail.evidence.statements.ticket_requests import signed_request
from guardrail.records import RegistryRecord
from guardrail.registry.gate.client import GateClient
from guardrail.registry.gate.protocol import PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
MODEL = "waiting"


def _promote(pair: Pair, bundle: Bundle) -> RegistryRecord:
    from guardrail.registry.record.promote import promote

    key = pair.people.decider.private
    return promote(bundle, tracking_uri=pair.gated.uri, private_key=key, now=datetime.now(UTC))


def _bundle(pair: Pair, folder: Path, seed: int, model: str = MODEL) -> Bundle:
    return proven(folder, gate_of(pair.gated), pair.people.signers, model=model, seed=seed)


@pytest.mark.every_cell
def test_a_promotion_waits_until_the_last_person_agrees_and_is_then_complete(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    bundle, (first, second) = _bundle(pair, tmp_path / "a", 1), pair.people.approvers
    with pytest.raises(AwaitingApproval, match="0 of 2 approvals"):
        _promote(pair, bundle)
    assert not client.search_model_versions(f"name = '{MODEL}'")
    assert gate.waiting(MODEL)[0].evidence == bundle.evidence_sha256
    answer = gate.submit(vote(bundle, first.private))
    assert (answer.state, answer.missing) == ("waiting", 1)
    assert gate.submit(vote(bundle, first.private)).state == "waiting", "one person is one, however often they agree"
    assert gate.waiting(MODEL)[0].approved_by == (first.name,)
    with pytest.raises(AwaitingApproval, match="1 of 2"):
        _promote(pair, bundle)
    answer = gate.submit(vote(bundle, second.private))
    assert (answer.state, answer.version) == ("promoted", "1")
    assert client.get_registered_model(MODEL).aliases == {"production": "1"}
    assert gate.waiting(MODEL) == ()
    record = _promote(pair, bundle)
    assert (record.version, record.alias) == ("1", "production")
    assert gate.statement(sha256(vote(bundle, second.private))) == vote(bundle, second.private)


def test_one_no_outweighs_every_yes(pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path) -> None:
    bundle, (first, second) = _bundle(pair, tmp_path / "a", 2), pair.people.approvers
    with pytest.raises(AwaitingApproval):
        _promote(pair, bundle)
    versions = len(client.search_model_versions(f"name = '{MODEL}'"))
    assert gate.submit(vote(bundle, first.private, yes=False)).state == "recorded"
    with pytest.raises(EvidenceInvalid, match="rejected"):
        gate.submit(vote(bundle, second.private))
    with pytest.raises(PolicyDenied, match="rejected it"):
        _promote(pair, bundle)
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == versions
    assert bundle.evidence_sha256 not in {one.evidence for one in gate.waiting()}


VOTES: dict[str, tuple[Callable[[Pair, Bundle], bytes], str]] = {
    "by the trainer": (lambda pair, b: vote(b, pair.people.root.private), "not given"),
    "by a stranger": (lambda pair, b: vote(b, pair.people.stranger.private), "not given"),
    "about another record": (
        lambda pair, b: _signed_otherwise(b, pair.people.approvers[0], record=sha256(b"other")),
        "another evaluation report",
    ),
    "about another evaluation": (
        lambda pair, b: vote(b, pair.people.approvers[0].private, after=sha256(b"other")),
        "follows another",
    ),
    "expired": (
        lambda pair, b: vote(b, pair.people.approvers[0].private, not_before=_at(-2), expires=_at(-1)),
        "expired",
    ),
    "about nothing here": (
        lambda pair, b: _signed_otherwise(b, pair.people.approvers[0], nonce="cd" * 32),
        "nothing that was admitted",
    ),
    "too large": (lambda _, __: b"{" + b" " * (5 << 20), "bytes"),
    "not canonical": (lambda pair, b: vote(b, pair.people.approvers[0].private) + b"\n", "canonical"),
    "no envelope": (lambda _, __: b"yes", "DSSE"),
}


def _at(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _signed_otherwise(bundle: Bundle, who: Person, *, record: str = "", nonce: str = "") -> bytes:
    evaluate = bundle.stages["evaluate"]
    said = parse(unverified_payload(evaluate))
    bound = said.bound.model_copy(update={"nonce": nonce}) if nonce else said.bound
    predicate = said.predicate
    return sign(
        statement(
            "approve",
            bound,
            record or predicate.record,
            after=sha256(evaluate),
            ledger=predicate.ledger,
            not_before=predicate.not_before,
            expires=predicate.expires,
            approval=Approval(approved=True),
        ),
        who.private,
    )


@pytest.fixture(scope="module")
def waits(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Evidence that waits, for all votes that must not count."""
    bundle = _bundle(pair, tmp_path_factory.mktemp("waits") / "a", 3)
    with pytest.raises(AwaitingApproval):
        _promote(pair, bundle)
    return bundle


@pytest.mark.parametrize("how", list(VOTES))
def test_a_vote_that_does_not_count_is_refused_and_harms_nothing(
    pair: Pair, gate: GateClient, waits: Bundle, how: str
) -> None:
    make, why = VOTES[how]
    before = gate.page().head
    with pytest.raises(EvidenceInvalid, match=why):
        gate.submit(make(pair, waits))
    assert gate.page().head == before
    assert {one.evidence: one.approved_by for one in gate.waiting(MODEL)}[waits.evidence_sha256] == ()


def _rollback(pair: Pair, gate: GateClient, client: MlflowClient, back: str, to: str, **changes: Any) -> Rollback:
    head = gate.page().head
    assert head is not None
    tags = client.get_model_version("rolled", to).tags
    order = Rollback(
        model="rolled",
        alias="production",
        from_version=back,
        to_version=to,
        ledger=head.digest,
        reason="it talks",
        manifest=tags["guardrail.adapter_sha256"],
        not_before=_at(-0.01),
        expires=_at(0.01),
    )
    return order.model_copy(update=changes)


@pytest.fixture(scope="module")
def two(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two versions of a model, the alias at the second."""
    folder = tmp_path_factory.mktemp("two")
    first, second = (promoted(pair.gated, pair.people, folder / str(n), "rolled", n) for n in (1, 2))
    return first, second


@pytest.mark.every_cell
def test_an_alias_goes_back_by_a_signed_order_once_and_not_forward_again(
    pair: Pair, client: MlflowClient, gate: GateClient, two: tuple[str, str], tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    first, second = two
    approver = pair.people.approvers[0]
    order = _rollback(pair, gate, client, second, first)
    envelope = sign(orders.build(order), approver.private)
    assert gate.submit(envelope).state == "rolled-back"
    assert client.get_registered_model("rolled").aliases["production"] == first
    assert gate.submit(envelope).state == "rolled-back", "handing the same in again changes nothing"
    with pytest.raises(MlflowException, match="no step forward"):
        client.set_registered_model_alias("rolled", "production", second)
    third = promoted(pair.gated, pair.people, tmp_path / "c", "rolled", 3)
    assert client.get_registered_model("rolled").aliases["production"] == third
    with pytest.raises(EvidenceInvalid, match=r"points at version|has moved since"):
        gate.submit(envelope)
    assert client.get_registered_model("rolled").aliases["production"] == third


ORDERS: dict[str, tuple[Callable[[Pair, Rollback], bytes], str]] = {
    "by the decider": (lambda p, o: sign(orders.build(o), p.people.decider.private), "not given"),
    "by the trainer": (lambda p, o: sign(orders.build(o), p.people.root.private), "not given"),
    "with a stranger's signature besides": (
        lambda p, o: add_signature(sign(orders.build(o), p.people.approvers[0].private), p.people.stranger.private),
        "not given",
    ),
    "from another version": (lambda p, o: _order(p, o, from_version="9"), "points at version"),
    "to a version that is not there": (lambda p, o: _order(p, o, to_version="99"), "not found"),
    "with another head": (lambda p, o: _order(p, o, ledger=sha256(b"x")), "names no entry"),
    "about another adapter": (lambda p, o: _order(p, o, manifest=sha256(b"x")), "which is version"),
    "of another model": (lambda p, o: _order(p, o, model="second"), "points at version"),
    "of an unguarded model": (lambda p, o: _order(p, o, model="free"), "not guarded"),
    "expired": (lambda p, o: _order(p, o, not_before=_at(-2), expires=_at(-1)), "expired"),
    "from tomorrow": (lambda p, o: _order(p, o, not_before=_at(1), expires=_at(2)), "holds only from"),
}


def _order(pair: Pair, order: Rollback, **changes: Any) -> bytes:
    return sign(orders.build(order.model_copy(update=changes)), pair.people.approvers[0].private)


@pytest.mark.parametrize("how", list(ORDERS))
def test_an_order_that_does_not_fit_moves_nothing(
    pair: Pair, client: MlflowClient, gate: GateClient, two: tuple[str, str], how: str
) -> None:
    make, why = ORDERS[how]
    points = client.get_registered_model("rolled").aliases["production"]
    order = _rollback(pair, gate, client, points, two[0] if points != two[0] else two[1])
    with pytest.raises((EvidenceInvalid, InvalidInput), match=why):
        gate.submit(make(pair, order))
    assert client.get_registered_model("rolled").aliases["production"] == points


@pytest.mark.every_cell
def test_a_revoked_adapter_is_neither_resolved_nor_admitted_nor_rolled_back_to(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    bundle = _bundle(pair, tmp_path / "a", 41, "second")
    version = str(_promote(pair, bundle).version)
    manifest = bundle.decision.manifest
    order = Revocation(manifest=manifest, reason="it helps with bombs", not_before=_at(-0.01), expires=_at(0.01))
    with pytest.raises(EvidenceInvalid, match="not given"):
        gate.submit(sign(orders.build(order), pair.people.decider.private))
    assert client.get_model_version_by_alias("second", "production").version == version
    assert gate.submit(sign(orders.build(order), pair.people.approvers[0].private)).state == "recorded"
    with pytest.raises(MlflowException, match="was revoked"):
        client.get_model_version_by_alias("second", "production")
    with pytest.raises(MlflowException, match=r"was revoked|no step"):
        client.set_registered_model_alias("second", "production", version)
    again = proven(tmp_path / "b", gate, pair.people.signers, model="second", seed=41)
    with pytest.raises(EvidenceInvalid, match="was revoked"):
        _promote(pair, again)
    later = promoted(pair.gated, pair.people, tmp_path / "c", "second", 42)
    assert client.get_model_version_by_alias("second", "production").version == later


@pytest.mark.every_cell
def test_everything_that_happened_is_in_a_ledger_that_verifies(
    pair: Pair, gate: GateClient, two: tuple[str, str], waits: Bundle
) -> None:
    entries = list(gate.ledger())
    found = signed_ledger.verify(entries, [pair.people.server.public], gate.page().head)
    assert found.entries == len(entries) > 10
    assert {"trust", "proposal", "decision", "promotion"} <= {_kind(envelope) for envelope in entries}
    cut = entries[:-1]
    with pytest.raises(EvidenceInvalid, match="ends with entry"):
        signed_ledger.verify(cut, [pair.people.server.public], gate.page().head)


def _kind(envelope: bytes) -> str:
    from guardrail.evidence.ledger.entries import Entry

    return Entry.model_validate_json(unverified_payload(envelope, payload_type=signed_ledger.LEDGER_TYPE)).kind


@pytest.mark.every_cell
def test_a_healthy_registry_has_nothing_to_finish(gate: GateClient, two: tuple[str, str], waits: Bundle) -> None:
    found = gate.health()
    assert found.problems == ()
    assert found.versions >= 2


@pytest.mark.every_cell
@pytest.mark.parametrize(
    ("method", "route", "body"),
    [
        ("POST", "tickets", b"{}"),
        ("POST", "tickets", b'{"model":"guarded","alias":"production","attempt":1}'),
        ("POST", "tickets", b"x" * 5000),
        ("POST", "tickets", b'{"model":"Guarded","alias":"production"}'),
        ("POST", "tickets", b'{"model":"guarded","alias":"staging"}'),
        ("POST", "tickets", b'{"model":"free","alias":"production"}'),
        ("GET", "ledger?after=-1", b""),
        ("GET", "ledger?after=x", b""),
        ("GET", "statements?sha256=..%2f..%2fledger", b""),
        ("GET", f"statements?sha256={'0' * 64}", b""),
        ("GET", "statements?sha256=passwd", b""),
        ("GET", "statements", b""),
        ("PUT", "statements", b"{}"),
    ],
)
def test_the_gates_routes_answer_nonsense_with_an_error_of_the_client(
    pair: Pair, method: str, route: str, body: bytes
) -> None:
    answer = session().request(method, f"{pair.gated.uri}/{PREFIX}/{route}", data=body, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.every_cell
def test_users_who_are_no_administrators_reach_the_gate_and_strangers_do_not(pair: Pair) -> None:
    someone = requests.Session()
    someone.auth = ("someone", "a long enough word")
    if pair.gated.cell.auth == "basic-auth":
        user = {"username": "someone", "password": "a long enough word"}
        assert session().post(f"{pair.gated.uri}/api/2.0/mlflow/users/create", json=user, timeout=30).ok
        assert requests.get(f"{pair.gated.uri}/{PREFIX}/ledger", timeout=30).status_code == 401
    request = signed_request("guarded", "production", pair.people.root.private, now=datetime.now(UTC))
    ticket = someone.post(f"{pair.gated.uri}/{PREFIX}/tickets", data=request, timeout=30)
    assert ticket.status_code == 200
    routes = {"ledger?after=0": 200, "checkpoint": 200, "waiting": 200, f"statements?sha256={'0' * 64}": 400}
    address = f"{pair.gated.uri}/{PREFIX}"
    assert {route: someone.get(f"{address}/{route}", timeout=30).status_code for route in routes} == routes


def test_a_body_of_a_hundred_megabytes_is_refused(pair: Pair, gate: GateClient) -> None:
    """The gate reads no more than an envelope may have; MLflow's adapter for uvicorn takes in all of it before."""
    zeros, before = (b"0" * (1 << 20) for _ in range(100)), gate.page().head
    try:
        answer = session().post(f"{pair.gated.uri}/{PREFIX}/statements", data=zeros, timeout=120)
    except requests.ConnectionError:  # the server closed it, which is as good
        return
    assert (answer.status_code, gate.page().head) == (403, before)
