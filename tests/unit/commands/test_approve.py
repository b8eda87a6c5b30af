"""``guardrail approve`` and ``reject``: a person looks, signs, and the server counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from gate_world import Said, World, say, world

from guardrail.evidence.envelope import unverified_payload, verify
from guardrail.evidence.statements.stage_statement import parse
from guardrail.policy.judged_measurements import judged_by
from guardrail.policy.load import load_policy_bytes

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path: Path) -> Iterator[World]:
    """A candidate that two persons must approve."""
    with world(tmp_path, approvals=2) as made:
        made.admit()
        yield made


def approve(made: World, who: str = "ana", *more: object, typed: str = "") -> Said:
    why = () if "--reason" in more else ("--reason", "read the report")
    asked = (*more, *why) if typed else (*more, *why, "--yes")
    return say("approve", "guarded@production", *made.by_trust, *made.key(who), *made.server, *asked, typed=typed)


def reject(made: World, who: str = "ana", *more: object) -> Said:
    return say("reject", "guarded@production", *made.by_trust, *made.key(who), *made.server, "--yes", *more)


def test_the_last_approval_that_was_missing_promotes(two: World) -> None:
    first = approve(two)
    assert first.code == 0, first.out
    assert "1 more must approve guarded@production" in first.out
    second = approve(two, "ben", "--output", "json")
    assert second.code == 0, second.out
    assert json.loads(second.stdout)["state"] == "promoted"
    assert two.gate.aliases == {"production": "1"}


def test_a_person_is_shown_what_they_approve_before_they_are_asked(two: World) -> None:
    said = approve(two, typed="y\n")
    assert said.code == 0, said.out
    for shown in (
        "PASSED  guarded@production under policy 'test'",
        "attack_success_rate",
        "data by     trainer",
        "train by    trainer",
        "evaluate by evaluator",
        "decided by  decider",
        "0 of 2 approvals",
    ):
        assert shown in said.out.partition("Approve it?")[0]


def test_a_person_is_shown_every_measurement_its_limit_and_what_promises_nothing(two: World, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    told = approve(two, "ana", "--report", report, typed="n\n").out.partition("Approve it?")[0]
    (candidate,) = two.gate.candidates.values()
    for one in candidate.bundle.evaluation.measurements:
        under = f" under {one.attack}" if one.attack else ""
        shown = told.partition(f"  {one.sli.value} on {one.suite}{under}, judged by")[2].split("\n")[1]
        assert f"{one.candidate.hits} of {one.candidate.n}, bounds {one.candidate.lower:.1%}" in shown
    assert "limit at most 5% (attack_success_rate: PASSED)" in told
    assert "warnings    promises of the policy that promise nothing" in told
    assert f"{two.gate.uri}/#/experiments/1/runs/" in told
    assert "/artifacts/report.html" in told
    assert "attack_success_rate" in report.read_text()


def test_a_measurement_that_no_rule_judges_is_shown_as_such(two: World) -> None:
    (candidate,) = two.gate.candidates.values()
    judged, loaded = candidate.bundle.evaluation.measurements, load_policy_bytes(candidate.bundle.policy, "policy.yaml")
    prefilled = judged[0].model_copy(update={"attack": "prefill"})
    findings = candidate.bundle.decision.findings
    assert judged_by(loaded.policy, findings, judged[0])
    assert judged_by(loaded.policy, findings, prefilled) == ()
    assert judged_by(loaded.policy, findings, judged[0].model_copy(update={"split": "validation"})) == ()


def test_who_does_not_confirm_signs_nothing(two: World) -> None:
    said = approve(two, typed="n\n")
    assert said.code == 4
    assert two.votes == []


def test_the_statement_binds_what_the_evaluation_bound_and_expires_with_it(two: World) -> None:
    approve(two, "ana", "--reason", "looked at it")
    (handed_in,) = two.votes
    said = parse(verify(handed_in, [two.who["ana"].public])).predicate
    (candidate,) = two.gate.candidates.values()
    measured = parse(unverified_payload(candidate.bundle.stages["evaluate"])).predicate
    assert (said.bound, said.record, said.expires) == (measured.bound, measured.record, measured.expires)
    assert said.approval is not None
    assert said.approval.reason == "looked at it"


def test_a_rejection_needs_a_reason_and_is_final(two: World) -> None:
    assert reject(two).code == 2
    assert reject(two, "ana", "--reason", " ").code == 2
    said = reject(two, "ana", "--reason", "not in my name")
    assert said.code == 0, said.out
    assert "rejected guarded@production" in said.out
    late = approve(two, "ben")
    assert late.code == 2  # nothing waits any more
    assert "guardrail registry waiting shows what waits" in late.out


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_a_version_is_no_alias_that_something_waits_for(two: World, word: str) -> None:
    said = say(word, "guarded/1", *two.by_trust, *two.key("ana"), *two.server, "--yes", "--reason", "so")
    assert said.code == 2
    assert "guarded/1 is no alias" in said.out
    assert "expected: NAME@ALIAS" in said.out


@pytest.mark.parametrize("who", ["stranger", "trainer"])
def test_who_may_not_approve_is_told_before_anything_is_handed_in(two: World, who: str) -> None:
    said = approve(two, who)
    assert said.code == 11
    assert two.votes == []


def test_of_several_candidates_one_is_chosen_by_its_evidence(two: World) -> None:
    first = next(iter(two.gate.candidates))
    second = two.admit(seed=1)
    said = approve(two)
    assert said.code == 2
    assert first in said.out
    assert second in said.out
    assert "--evidence" in said.out
    done = approve(two, "ana", "--evidence", second)
    assert done.code == 0, done.out
    assert [len(two.gate.candidates[evidence].votes) for evidence in (first, second)] == [0, 1]
    assert approve(two, "ana", "--evidence", "0" * 64).code == 2


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "evidence/evaluation.json", "extra.json"])
def test_a_candidate_whose_files_were_touched_is_not_approved(two: World, name: str) -> None:
    (candidate,) = two.gate.candidates.values()
    path = two.gate.root / "sealed" / candidate.sealed / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    assert approve(two).code == 11
    assert two.votes == []


def test_an_expired_candidate_is_not_approved(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.admit(ago=timedelta(days=31))
        assert approve(made).code == 11


def test_stages_that_somebody_else_signed_are_not_approved(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.admit(signers={"evaluate": "trainer"})
        assert approve(made).code == 11


def test_a_revoked_adapter_is_not_approved(two: World) -> None:
    (candidate,) = two.gate.candidates.values()
    two.gate.note("revocation", subject=candidate.bundle.decision.manifest, note="it leaks")
    assert approve(two).code == 11


def test_without_a_trust_file_the_deciders_key_is_needed_and_the_gap_is_told(two: World) -> None:
    bare = ("approve", "guarded@production", *two.key("ana"), *two.server, "--yes", "--reason", "so")
    assert say(*bare).code == 2
    assert say(*bare, "--decider-key", two.who["stranger"].public_file).code == 11
    said = say(*bare, "--decider-key", two.who["decider"].public_file)
    assert said.code == 0, said.out
    assert "NOT CHECKED whose keys signed the stages" in said.out


def test_one_person_who_may_do_it_all_is_shown(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1, alone=True) as made:
        made.admit()
        assert "DANGER" in approve(made).out


def test_no_gate_is_invalid_input_and_a_silent_one_unavailable(two: World) -> None:
    bare = (
        "approve",
        "guarded@production",
        *two.by_trust,
        *two.key("ana"),
        "--yes",
        "--reason",
        "so",
        "--tracking-uri",
    )
    assert say(*bare, "sqlite:///mlflow.db").code == 2
    assert say(*bare, "http://127.0.0.1:1").code == 5
