"""What people type after promotion, against the true server: approve, verify, pull, show, list, roll back, revoke."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_chains import proven
from gate_fixtures import Pair, gate_of, promoted
from gate_trust import Person
from gate_world import Said, say

from guardrail.errors import AwaitingApproval
from guardrail.evidence.digest import sha256
from guardrail.registry.record.promote import CandidateWaitsError, promote

pytestmark = pytest.mark.slow
MODEL, AGREED = "commanded", "agreed"


@pytest.fixture
def by_trust(pair: Pair) -> tuple[object, ...]:
    return ("--trust", pair.people.trust_file, "--root", pair.people.root.public_file)


def ask(pair: Pair, *words: object, key: Person | None = None) -> Said:
    signed = ("--key", key.private_file) if key else ()
    return say(*words, *signed, "--tracking-uri", pair.gated.uri)


def states(pair: Pair, by_trust: tuple[object, ...]) -> dict[str, tuple[str, str]]:
    said = ask(pair, "registry", "list", *by_trust, "--output", "json")
    assert said.code == 0, said.out
    return {row["model"]: (row["version"], row["state"]) for row in json.loads(said.stdout)["rows"]}


@pytest.mark.every_cell
def test_two_persons_approve_and_everybody_can_verify_it(
    pair: Pair, by_trust: tuple[object, ...], tmp_path: Path
) -> None:
    model, (ana, ben) = AGREED, pair.people.approvers
    bundle = proven(tmp_path / "a", gate_of(pair.gated), pair.people.signers, model=model, seed=71)
    with pytest.raises(CandidateWaitsError) as caught:
        promote(bundle, tracking_uri=pair.gated.uri, private_key=pair.people.decider.private, now=datetime.now(UTC))
    waits = json.loads(ask(pair, "registry", "waiting", model, "--output", "json").stdout)["waiting"]
    pages = {one["evidence"]: one["run_page"] for one in waits}
    assert pages[bundle.evidence_sha256] == caught.value.run_page
    assert caught.value.run_page.endswith(f"/runs/{caught.value.run_id}")
    words = (
        "approve",
        f"{model}@production",
        *by_trust,
        "--evidence",
        bundle.evidence_sha256,
        "--yes",
        "--reason",
        "read it",
    )
    assert ask(pair, *words, key=pair.people.stranger).code == 11
    first = ask(pair, *words, key=ana)
    assert first.code == 0, first.out
    assert "1 more must approve" in first.out
    second = ask(pair, *words, key=ben)
    assert second.code == 0, second.out
    assert "promoted" in second.out
    verified = ask(pair, "verify", f"{model}@production", *by_trust)
    assert verified.code == 0, verified.out
    assert f"ok  approvals 2 of 2: {ana.name}, {ben.name}" in verified.out
    shown = ask(pair, "registry", "show", f"{model}@production", *by_trust)
    assert shown.code == 0, shown.out
    assert "verifies now" in shown.out
    pulled = ask(pair, "pull", f"{model}@production", "--to", tmp_path / "here", *by_trust)
    assert pulled.code == 0, pulled.out
    weights = (tmp_path / "here" / "adapter_model.safetensors").read_bytes()
    assert weights == (bundle.adapter_dir / "adapter_model.safetensors").read_bytes()


def test_a_rejected_candidate_waits_no_longer(pair: Pair, by_trust: tuple[object, ...], tmp_path: Path) -> None:
    bundle = proven(tmp_path / "a", gate_of(pair.gated), pair.people.signers, model=AGREED, seed=72)
    with pytest.raises(AwaitingApproval):
        promote(bundle, tracking_uri=pair.gated.uri, private_key=pair.people.decider.private, now=datetime.now(UTC))
    words = (f"{AGREED}@production", *by_trust, "--evidence", bundle.evidence_sha256, "--yes")
    said = ask(pair, "reject", *words, "--reason", "not this one", key=pair.people.approvers[0])
    assert said.code == 0, said.out
    late = ask(pair, "approve", *words, "--reason", "too late", key=pair.people.approvers[1])
    assert late.code == 2
    assert "nothing of that kind waits" in late.out


@pytest.mark.every_cell
def test_an_alias_goes_back_and_an_adapter_out(pair: Pair, by_trust: tuple[object, ...], tmp_path: Path) -> None:
    first, second = (promoted(pair.gated, pair.people, tmp_path / str(n), MODEL, 80 + n) for n in (1, 2))
    ana = pair.people.approvers[0]
    assert states(pair, by_trust)[MODEL] == (second, "ok")
    out = ask(pair, "registry", "revoke", "--yes", f"{MODEL}@production", "--reason", "it leaks", key=ana)
    assert out.code == 0, out.out
    refused = ask(pair, "verify", f"{MODEL}@production", *by_trust)
    assert refused.code == 11
    assert "revoked" in refused.out
    assert ask(pair, "verify", f"{MODEL}/{second}", *by_trust).code == 11
    assert states(pair, by_trust)[MODEL] == (second, "revoked")
    assert "REFUSED" in ask(pair, "registry", "show", f"{MODEL}@production", *by_trust).out
    words = ("registry", "rollback", "--yes", f"{MODEL}@production", "--to", first, "--reason", "the second one leaks")
    assert ask(pair, *words, key=pair.people.decider).code == 11
    back = ask(pair, *words, key=ana)
    assert back.code == 0, back.out
    verified = ask(pair, "verify", f"{MODEL}@production", *by_trust)
    assert verified.code == 0, verified.out
    assert f"ordered by {ana.name}: the second one leaks" in verified.out
    assert states(pair, by_trust)[MODEL] == (first, "ok")
    told = ask(pair, "registry", "history", MODEL, *by_trust)
    assert told.code == 0, told.out
    assert [word for word in ("trust", "revocation", "rollback") if word not in told.out] == []
    found = json.loads(ask(pair, "registry", "history", MODEL, *by_trust, "--output", "json").stdout)["events"]
    assert [event["entry"]["kind"] for event in found if not event["who"]] == []
    assert {tuple(event["who"]) for event in found if event["entry"]["kind"] == "promotion"} == {
        (pair.people.decider.name,)
    }
    asked = next(event["entry"]["statement"] for event in found if event["entry"]["kind"] == "proposal")
    assert sha256(ask(pair, "ledger", "statement", asked).stdout.removesuffix("\n").encode()) == asked


def test_the_ledger_that_is_fetched_verifies_and_the_doctor_answers(pair: Pair, tmp_path: Path) -> None:
    copy = tmp_path / "ledger"
    assert ask(pair, "ledger", "fetch", "--out", copy).code == 0
    assert say("ledger", "verify", copy, "--key", pair.people.server.public_file).code == 0
    healthy = ask(pair, "registry", "doctor")
    assert healthy.code == 0, healthy.out
    assert "ledger entries" in healthy.out
