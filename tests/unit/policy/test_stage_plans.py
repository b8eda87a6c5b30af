"""What a policy change costs: only the stages that read what changed run again, and the decision always."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_evidence import chain
from tiny_models import POLICY

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, sha256
from guardrail.policy.load import LoadedPolicy, find_policy, load_policy_bytes
from guardrail.policy.stage_plans import data_plan, evaluation_plan, foreign, train_plan
from guardrail.records import DataReport

PLANS = {"data": data_plan, "train": train_plan, "evaluate": evaluation_plan}
CHANGES = {
    "a comment": (POLICY + "# reviewed again\n", set()),
    "the policy's name": (POLICY.replace("name: tiny", "name: tinier"), set()),
    "how long evidence is valid": (POLICY.replace("valid_days: 30", "valid_days: 3"), set()),
    "a limit": (POLICY.replace("max: 0.3, min_n: 12", "max: 0.25, min_n: 12"), set()),
    "the least number of items": (POLICY.replace("min_n: 12", "min_n: 11"), set()),
    "the batch size of answers": (POLICY.replace("batch_size: 16", "batch_size: 8"), set()),
    "detectors": (POLICY.replace("[known_harm, harmful_compliance]", "[known_harm]"), {"data"}),
    "quarantine": (POLICY.replace("quarantine: false", "quarantine: true"), {"data"}),
    "how long answers may be": (POLICY.replace("max_new_tokens: 6", "max_new_tokens: 7"), {"train", "evaluate"}),
    "where a suite lies": (POLICY.replace("harmful.jsonl", "other.jsonl"), {"train", "evaluate"}),
    "another attack": (POLICY.replace("attack: prefill", "attack: triggered"), {"evaluate"}),
    "another rule": (POLICY + "  - {rule: coherence, suite: harmful, min: 0.5, min_n: 12}\n", {"evaluate"}),
}
PINNED = POLICY.replace("path: sums.jsonl", f"path: sums.jsonl, sha256: '{'ab' * 32}'")


SUITE = "  extra: {format: jsonl, kind: harmful, split: all, path: extra.jsonl}\n"
EXTRA = POLICY.replace("suites:\n", "suites:\n" + SUITE)
SHIPPED = {
    "default": ("0657716c47deb3f9", "a8aadef81252a211", "6e4b2af91ea67378"),
    "strict": ("e1a5db15f68a8d01", "a8aadef81252a211", "6e4b2af91ea67378"),
    "unfiltered": ("01f5884b8a4b5cfc", "a8aadef81252a211", "6e4b2af91ea67378"),
}
"""Evidence that was sealed under a policy is decided again by later releases: these digests never change."""


def policy(text: str = POLICY) -> LoadedPolicy:
    return load_policy_bytes(text.encode(), "policy.yaml")


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_runs_again_only_where_what_it_reads_has_changed(change: str) -> None:
    text, stages = CHANGES[change]
    assert text != POLICY
    assert {name for name, plan in PLANS.items() if plan(policy(text).policy) != plan(policy().policy)} == stages


def test_a_suite_that_begins_to_judge_makes_every_stage_look_again() -> None:
    """Rows, anchors and what is replayed were compared with the suites that judged then."""
    judging = EXTRA + "  - {rule: coherence, suite: extra, min: 0.5, min_n: 12}\n"
    assert {name for name, plan in PLANS.items() if plan(policy(EXTRA).policy) != plan(policy(judging).policy)} == {
        *PLANS
    }


def test_what_a_section_says_by_default_is_in_no_digest() -> None:
    written = POLICY.replace("quarantine: false}", "quarantine: false, max_characters: 20000, max_flagged_share: 0.5}")
    assert written != POLICY
    assert all(plan(policy(written).policy) == plan(policy().policy) for plan in PLANS.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_plans_of_what_was_shipped_never_change(name: str) -> None:
    assert tuple(plan(find_policy(name).policy)[:16] for plan in PLANS.values()) == SHIPPED[name]


def test_contents_that_are_pinned_may_lie_elsewhere() -> None:
    moved = PINNED.replace("path: sums.jsonl", "path: elsewhere/sums.jsonl")
    assert all(plan(policy(PINNED).policy) == plan(policy(moved).policy) for plan in PLANS.values())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("a limit that is chosen by", POLICY.replace("max: 0.3, min_n: 12", "max: 0.25, min_n: 12")),
        ("methods that auto may try", POLICY.replace("allowed: [finetune, ", "allowed: [")),
    ],
)
def test_what_chooses_is_trained_again_where_a_limit_of_the_choice_changed(change: str, text: str) -> None:
    one, other = policy().policy, policy(text).policy
    assert train_plan(one, chooses=True) != train_plan(other, chooses=True)
    assert train_plan(one) == train_plan(other)


def test_a_record_of_another_policy_counts_where_its_plan_is_the_same() -> None:
    made, other = policy(), policy(POLICY + "# a comment\n")
    report = chain(made.digest).data
    assert report is not None
    planned = report.model_copy(update={"plan": data_plan(made.policy)})
    assert foreign(made, (report,)) == ""
    assert foreign(other, (planned,)) == ""
    assert foreign(other, (report,)) == "guardrail data validate", "a record from before there were plans names none"
    changed = policy(CHANGES["detectors"][0])
    assert foreign(changed, (planned,)) == "guardrail data validate"


def test_a_plan_of_another_stage_is_none() -> None:
    made, other = policy(), policy(POLICY + "# a comment\n")
    evidence = chain(made.digest)
    assert evidence.adapter is not None
    wrong = evidence.adapter.model_copy(update={"plan": data_plan(made.policy)})
    assert foreign(other, (wrong,)) == "guardrail train"


def test_records_from_before_there_were_plans_keep_their_bytes() -> None:
    report = chain("ab" * 32).data
    assert report is not None
    assert b'"plan"' not in canonical(report)
    assert DataReport.model_validate_json(canonical(report)) == report
    planned = report.model_copy(update={"plan": sha256(b"")})
    assert DataReport.model_validate_json(canonical(planned)) == planned
    assert canonical(planned) != canonical(report)


@pytest.mark.parametrize("change", [name for name, (_, stages) in CHANGES.items() if stages])
def test_the_decision_names_the_first_stage_that_must_run_again(change: str, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from guardrail.policy.decide import decide

    made, (text, stages) = policy(), CHANGES[change]
    evidence = chain(made.digest)
    plans = {"data": data_plan, "adapter": train_plan, "evaluation": evaluation_plan}
    planned = {
        name: getattr(evidence, name).model_copy(update={"plan": plan(made.policy)}) for name, plan in plans.items()
    }
    command = next(
        command
        for stage, command in (
            ("data", "guardrail data validate"),
            ("train", "guardrail train"),
            ("evaluate", "guardrail evaluate"),
        )
        if stage in stages
    )
    with pytest.raises(EvidenceInvalid, match=command):
        decide(policy(text), evidence.model_copy(update=planned), inputs="ab" * 32, now=datetime.now(UTC))
