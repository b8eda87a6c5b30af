"""What once got around the gate, or wedged it, and must not again: spellings, tickets, ill-timed votes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gate_chains import drawn, proven, vote
from gate_fixtures import Pair, gate_of
from gate_trust import guarded_model, signed, trust
from gated_servers import GUARDED

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import Bundle, write
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.trust.trust_file import read_unverified_trust
from guardrail.registry.gate.client import GateClient
from guardrail.registry.mlflow.mlflow_client import AWAITS

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
WAITING = "broken-waiting"


def _bundle(pair: Pair, folder: Path, model: str, **given: Any) -> Bundle:
    return proven(folder, gate_of(pair.gated), pair.people.signers, model=model, **given)


def _logged(client: MlflowClient, bundle: Bundle, folder: Path) -> str:
    """The bundle as a logged model; its id."""
    folder.mkdir()
    write(bundle, folder)
    logged = client.create_logged_model("0", name="proposed")
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _propose(client: MlflowClient, bundle: Bundle, folder: Path) -> str:
    """What a client that checks nothing sends; the version."""
    model, model_id = bundle.decision.model, _logged(client, bundle, folder)
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    return str(client.create_model_version(model, f"models:/{model_id}", model_id=model_id).version)


def _entries(gate: GateClient, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(unverified_payload(line, payload_type=LEDGER_TYPE)) for line in gate.ledger()]
    return [entry for entry in found if entry["kind"] == kind]


def test_a_version_in_another_spelling_is_written_down_as_the_database_numbers_it(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    """The database takes "02" for 2; a ledger that said "02" would make every later check of 2 fail."""
    version = _propose(client, _bundle(pair, tmp_path / "a", "broken", seed=61), tmp_path / "laid")
    client.set_registered_model_alias("broken", "production", f"0{version}")
    assert client.get_registered_model("broken").aliases["production"] == version
    assert _entries(gate, "promotion")[-1]["version"] == version
    client.set_registered_model_alias("broken", "production", version)
    assert gate.health().problems == ()


def test_a_denial_spends_its_ticket_also_after_it_was_refused_as_a_proposal(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    ticket = drawn(gate, pair.people.signers, "broken")
    denied = _bundle(pair, tmp_path / "a", "broken", seed=62, ticket=ticket, safe=False)
    with pytest.raises(MlflowException, match="is FAILED"):
        _propose(client, denied, tmp_path / "denied")
    head = gate.submit(denied.envelope).entry
    assert gate.submit(denied.envelope).entry == head
    again = _bundle(
        pair,
        tmp_path / "b",
        "broken",
        seed=62,
        ticket=ticket.model_copy(),
        bind=False,
        ledger=head.digest,
        attempt=denied.decision.attempt,
    )
    with pytest.raises(MlflowException, match="was spent by"):
        _propose(client, again, tmp_path / "again")


def test_a_denial_spends_no_ticket_of_another_model_or_attempt(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    denied = _bundle(pair, tmp_path / "a", "rolled", seed=63, safe=False)
    good = _bundle(pair, tmp_path / "b", "broken", seed=63)
    assert denied.decision.manifest == good.decision.manifest
    gate.submit(denied.envelope)
    assert _entries(gate, "denial")[-1]["nonce"] == parse(unverified_payload(denied.stages["train"])).bound.nonce
    version = _propose(client, good, tmp_path / "laid")
    client.set_registered_model_alias("broken", "production", version)
    unbound = _bundle(pair, tmp_path / "c", "rolled", seed=63, safe=False, attempt=99)
    with pytest.raises(EvidenceInvalid, match="no ticket"):
        gate.submit(unbound.envelope)


@pytest.fixture
def waits(pair: Pair, client: MlflowClient, tmp_path: Path) -> Iterator[tuple[Bundle, str]]:
    """Evidence that waits for two persons, and its logged model."""
    from mlflow.exceptions import MlflowException

    if not client.search_registered_models(f"name = '{WAITING}'"):
        client.create_registered_model(WAITING)
    bundle = _bundle(pair, tmp_path / "w", WAITING, seed=64)
    model_id = _logged(client, bundle, tmp_path / "laid")
    with pytest.raises(MlflowException, match=AWAITS):
        client.create_model_version(WAITING, f"models:/{model_id}", model_id=model_id)
    yield bundle, model_id
    first = pair.people.approvers[0]
    if bundle.evidence_sha256 in {one.evidence for one in gate_of(pair.gated).waiting(WAITING)}:
        gate_of(pair.gated).submit(vote(bundle, first.private, yes=False))


def test_what_waits_is_promoted_also_when_its_logged_model_was_deleted_and_not_rejected_afterwards(
    pair: Pair, client: MlflowClient, gate: GateClient, waits: tuple[Bundle, str]
) -> None:
    (bundle, model_id), (first, second) = waits, pair.people.approvers
    client.delete_logged_model(model_id)
    gate.submit(vote(bundle, first.private))
    answer = gate.submit(vote(bundle, second.private))
    assert answer.state == "promoted"
    assert client.get_model_version_by_alias(WAITING, "production").version == answer.version
    with pytest.raises(EvidenceInvalid, match="was promoted already"):
        gate.submit(vote(bundle, first.private, yes=False))
    with pytest.raises(EvidenceInvalid, match="was promoted already"):
        gate.submit(vote(bundle, second.private, not_before=datetime.now(UTC)))
    assert gate.submit(vote(bundle, second.private)).state == "promoted", "the same is not a new one"


def test_who_waits_is_told_also_when_a_model_is_no_longer_guarded(
    pair: Pair, gate: GateClient, waits: tuple[Bundle, str]
) -> None:
    who, before = pair.people, pair.people.trust_file.read_bytes()
    names = [guarded_model(name) for name in GUARDED if name != WAITING]
    now = read_unverified_trust(before)
    who.write(
        signed(
            trust(who.root, who.decider, names, version=now.version + 1, approvers=who.approvers, server=who.server),
            who.root,
        )
    )
    try:
        assert waits[0].evidence_sha256 not in {one.evidence for one in gate.waiting()}
    finally:
        who.write(who.trust(version=now.version + 2))
    assert waits[0].evidence_sha256 in {one.evidence for one in gate.waiting()}


def test_a_vote_of_somebody_who_may_no_longer_approve_shuts_the_gate_until_they_may(
    pair: Pair, gate: GateClient, waits: tuple[Bundle, str]
) -> None:
    """Neither counted nor ignored: a no that was ignored would be worse."""
    (bundle, _), who, before = waits, pair.people, pair.people.trust_file.read_bytes()
    first, second = who.approvers
    gate.submit(vote(bundle, first.private))
    names = [guarded_model(name, approvals=1 if name == WAITING else 0) for name in GUARDED]
    now = read_unverified_trust(before)
    who.write(
        signed(
            trust(who.root, who.decider, names, version=now.version + 1, approvers=(second,), server=who.server),
            who.root,
        )
    )
    try:
        with pytest.raises(EvidenceInvalid, match="a stranger"):
            gate.submit(vote(bundle, second.private))
    finally:
        who.write(who.trust(version=now.version + 2))
    assert gate.submit(vote(bundle, second.private)).state == "promoted"


def test_an_old_denial_says_nothing_about_a_new_measurement_of_the_same_adapter(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    """Denials are public and whoever reads them may hand them in again."""

    def promoted(seed: int) -> None:
        """After a promotion attempts are counted from one."""
        bundle = _bundle(pair, tmp_path / f"{seed}", "broken", seed=seed)
        version = _propose(client, bundle, tmp_path / f"laid-{seed}")
        client.set_registered_model_alias("broken", "production", version)

    promoted(68)
    denied = _bundle(pair, tmp_path / "a", "broken", seed=65, safe=False)
    gate.submit(denied.envelope)
    promoted(66)
    good = _bundle(pair, tmp_path / "c", "broken", seed=65)
    assert (good.decision.manifest, good.decision.attempt) == (denied.decision.manifest, denied.decision.attempt)
    head = gate.page().head
    gate.submit(gate.statement(denied.evidence_sha256))
    assert gate.page().head == head
    client.set_registered_model_alias("broken", "production", _propose(client, good, tmp_path / "laid-c"))


def test_an_approval_that_expires_before_the_rest_is_refused(
    pair: Pair, gate: GateClient, waits: tuple[Bundle, str]
) -> None:
    """It would make the version unverifiable, which only a revocation may."""
    said = parse(unverified_payload(waits[0].stages["evaluate"])).predicate
    first = pair.people.approvers[0]
    with pytest.raises(EvidenceInvalid, match="the approval expires"):
        gate.submit(vote(waits[0], first.private, expires=said.expires - timedelta(seconds=1)))


def test_files_that_were_changed_leave_no_refusal_of_the_evidence_they_came_with(
    pair: Pair, client: MlflowClient, gate: GateClient, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    bundle = _bundle(pair, tmp_path / "a", "broken", seed=67)
    write(bundle, tmp_path / "changed")
    (tmp_path / "changed" / "adapter_model.safetensors").write_bytes(b"other")
    logged = client.create_logged_model("0", name="proposed")
    client.log_model_artifacts(logged.model_id, str(tmp_path / "changed"))
    client.finalize_logged_model(logged.model_id, "READY")
    before = len(_entries(gate, "denial"))
    with pytest.raises(MlflowException, match="changed: adapter_model"):
        client.create_model_version("broken", f"models:/{logged.model_id}", model_id=logged.model_id)
    assert len(_entries(gate, "denial")) == before
