"""The decision: bound to its records, pure, closed on failure, and monotone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_evidence import (
    chain,
    forgetful_measurements,
    measurement,
    merged_adapter,
    merging,
    rate,
    safe_measurements,
)

from guardrail import plugins
from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.digest import digest, sha256
from guardrail.policy.decide import decide, overall
from guardrail.policy.load import LoadedPolicy, find_policy, load_policy_bytes
from guardrail.policy.needed import needs
from guardrail.policy.rules import Evidence
from guardrail.records import Decision, Measurement, Sli, Verdict

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
INPUTS = sha256(b"inputs")
DEFAULT = find_policy("default")
OTHER = sha256(b"something else")


def decided(evidence: Evidence, policy: LoadedPolicy = DEFAULT) -> Decision:
    return decide(policy, evidence, inputs=INPUTS, now=NOW)


def verdict(evidence: Evidence, policy: LoadedPolicy = DEFAULT) -> Verdict:
    return decided(evidence, policy).verdict


def test_safe_and_useful_evidence_passes_with_one_finding_on_the_base_and_per_rule() -> None:
    decision = decided(chain(DEFAULT.digest))
    assert decision.verdict is Verdict.PASSED, decision.findings
    assert [finding.rule for finding in decision.findings] == [
        "base model",
        *(limits.rule for limits in DEFAULT.policy.rules),
    ]


def test_the_decision_names_everything_it_rests_on() -> None:
    evidence = chain(DEFAULT.digest)
    decision = decided(evidence)
    assert evidence.data
    assert evidence.adapter
    assert evidence.evaluation
    assert (decision.policy, decision.inputs) == (DEFAULT.digest, INPUTS)
    assert decision.data == digest(evidence.data)
    assert decision.adapter == digest(evidence.adapter)
    assert decision.evaluation == digest(evidence.evaluation)
    assert (decision.model, decision.alias) == ("guarded-adapter", "production")
    assert decision.valid_until - decision.decided_at == timedelta(days=30)


@pytest.mark.parametrize("method", ["finetune", "lwf"])
def test_a_method_that_is_not_allowed_fails(method: str) -> None:
    assert verdict(chain(DEFAULT.digest, method=method)) is Verdict.FAILED


def test_an_adapter_that_forgot_its_safety_fails() -> None:
    assert verdict(chain(DEFAULT.digest, measurements=forgetful_measurements())) is Verdict.FAILED


def test_flagged_rows_left_in_fail_except_under_the_unfiltered_policy() -> None:
    unfiltered = find_policy("unfiltered")
    assert verdict(chain(DEFAULT.digest, left_in=1)) is Verdict.FAILED
    assert verdict(chain(unfiltered.digest, left_in=40), unfiltered) is Verdict.PASSED


@pytest.mark.parametrize("missing", range(5))
def test_a_missing_measurement_is_inconclusive(missing: int) -> None:
    measured = [one for index, one in enumerate(safe_measurements()) if index != missing]
    assert verdict(chain(DEFAULT.digest, measurements=tuple(measured))) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("twice", range(5))
def test_a_measurement_made_twice_is_inconclusive(twice: int) -> None:
    measured = safe_measurements()
    assert verdict(chain(DEFAULT.digest, measurements=(*measured, measured[twice]))) is Verdict.INCONCLUSIVE


def test_a_measurement_on_another_split_does_not_count() -> None:
    measured = safe_measurements()
    elsewhere = measured[0].model_copy(update={"split": "validation"})
    decision = decided(chain(DEFAULT.digest, measurements=(elsewhere, *measured[1:])))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert any("only on split validation, not on gate" in finding.reason for finding in decision.findings)
    assert verdict(chain(DEFAULT.digest, measurements=(elsewhere, *measured))) is Verdict.PASSED


@pytest.mark.parametrize("record", ["data", "adapter", "evaluation"])
def test_a_missing_record_is_evidence_missing(record: str) -> None:
    with pytest.raises(EvidenceMissing, match=f"no record of: {record}"):
        decided(chain(DEFAULT.digest).model_copy(update={record: None}))


BINDINGS = [
    ("data", "policy"),
    ("adapter", "policy"),
    ("evaluation", "policy"),
    ("adapter", "data"),
    ("adapter", "training_digest"),
    ("adapter", "manifest"),
    ("evaluation", "adapter"),
    ("evaluation", "manifest"),
]


def test_an_adapter_that_was_merged_in_is_part_of_the_decision() -> None:
    evidence = chain(DEFAULT.digest)
    assert verdict(merging(evidence, merged_adapter(DEFAULT.digest))) is Verdict.PASSED
    assert verdict(merging(evidence, merged_adapter(DEFAULT.digest, method="finetune"))) is Verdict.FAILED
    assert verdict(merging(evidence, merged_adapter(DEFAULT.digest, left_in=1))) is Verdict.FAILED
    assert verdict(merging(evidence, merged_adapter(DEFAULT.digest, detectors=()))) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("field", ["policy", "base"])
def test_an_adapter_of_another_policy_or_base_that_was_merged_in_is_evidence_invalid(field: str) -> None:
    fits = merged_adapter(DEFAULT.digest)
    with pytest.raises(EvidenceInvalid, match="a merged adapter's"):
        decided(merging(chain(DEFAULT.digest), fits, fits.model_copy(update={field: OTHER})))


@pytest.mark.parametrize(("record", "field"), BINDINGS)
def test_a_record_bound_to_something_else_is_evidence_invalid(record: str, field: str) -> None:
    evidence = chain(DEFAULT.digest)
    changed = getattr(evidence, record).model_copy(update={field: OTHER})
    with pytest.raises(EvidenceInvalid):
        decided(evidence.model_copy(update={record: changed}))


def test_an_evaluation_against_another_base_is_evidence_invalid() -> None:
    evidence = chain(DEFAULT.digest)
    assert evidence.evaluation
    base = evidence.evaluation.base.model_copy(update={"digest": OTHER})
    changed = evidence.evaluation.model_copy(update={"base": base})
    with pytest.raises(EvidenceInvalid, match="base model"):
        decided(evidence.model_copy(update={"evaluation": changed}))


@pytest.mark.parametrize("field", ["rows", "seed", "replay_rows"])
def test_an_edited_adapter_record_no_longer_fits_its_evaluation(field: str) -> None:
    evidence = chain(DEFAULT.digest)
    assert evidence.adapter
    with pytest.raises(EvidenceInvalid, match="evaluation's adapter"):
        decided(evidence.model_copy(update={"adapter": evidence.adapter.model_copy(update={field: 7})}))


def test_a_record_without_canonical_form_is_evidence_invalid() -> None:
    evidence = chain(DEFAULT.digest)
    assert evidence.data
    huge = evidence.data.model_copy(update={"rows": 2**60})
    with pytest.raises(EvidenceInvalid, match="canonical form"):
        decided(evidence.model_copy(update={"data": huge}))


@pytest.mark.parametrize("now", [NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=2)))])
def test_a_clock_that_is_not_in_utc_is_refused(now: datetime) -> None:
    with pytest.raises(InvalidInput, match="not in UTC"):
        decide(DEFAULT, chain(DEFAULT.digest), inputs=INPUTS, now=now)


def test_evidence_cannot_say_which_detectors_and_tasks_are_asked_for() -> None:
    evidence = chain(DEFAULT.digest)
    assert evidence.data
    blind = chain(DEFAULT.digest).model_copy(update={"detectors": (), "splits": {"harmful": "validation"}})
    assert decided(blind) == decided(evidence)


def test_a_rule_that_raises_is_inconclusive_and_the_others_are_still_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    module = plugins.load("guardrail.policy.rules", "coherence")

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(module, "check", broken)
    decision = decided(chain(DEFAULT.digest))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert [finding.verdict for finding in decision.findings].count(Verdict.PASSED) == 7
    assert "ZeroDivisionError: boom" in decision.findings[-1].reason


def test_no_findings_are_inconclusive() -> None:
    assert overall(()) is Verdict.INCONCLUSIVE


def test_the_evaluation_plan_names_each_measurement_once() -> None:
    plan = needs(DEFAULT.policy)
    assert [(need.sli.value, need.suite, need.attack) for need in plan] == [
        ("attack_success_rate", "harmful", "direct"),
        ("attack_success_rate", "harmful", "prefill"),
        ("over_refusal_rate", "benign", "direct"),
        ("utility", "", ""),
        ("coherence", "benign", "direct"),
    ]


def with_tasks(*tasks: str) -> LoadedPolicy:
    lines = "".join(f"  {task}: {{format: testbed}}\n" for task in tasks)
    return load_policy_bytes(DEFAULT.bytes + b"\ntasks:\n" + lines.encode(), "tasks.yaml")


def test_utility_without_a_task_asks_for_every_declared_task() -> None:
    plan = needs(with_tasks("sentiment", "code").policy)
    assert [need.suite for need in plan if need.sli is Sli.UTILITY] == ["sentiment", "code"]


def test_leaving_out_a_declared_task_is_inconclusive() -> None:
    both, one = with_tasks("sentiment", "code"), with_tasks("sentiment")
    assert verdict(chain(both.digest), both) is Verdict.INCONCLUSIVE
    assert verdict(chain(one.digest), one) is Verdict.PASSED


def test_a_measured_task_that_is_bad_fails_even_if_undeclared() -> None:
    bad = measurement(Sli.UTILITY, "arithmetic", rate(10, 400), rate(5, 400), attack="", judge="number")
    assert verdict(chain(DEFAULT.digest, measurements=(*safe_measurements(), bad))) is Verdict.FAILED


WORSE_IS_MORE = (Sli.ATTACK_SUCCESS_RATE, Sli.OVER_REFUSAL_RATE)
counts = st.integers(0, 400)


@st.composite
def reports(draw: st.DrawFn) -> tuple[Measurement, ...]:
    """Near-passing measurements: few bad items each, so that both verdicts occur."""
    measured = []
    for one in safe_measurements():
        bad, doubt = draw(st.integers(0, 14)), draw(st.integers(0, 4))
        base = draw(st.integers(0, 12)) if one.attack != "prefill" else draw(st.integers(388, 400))
        if one.sli in WORSE_IS_MORE:
            high = bad if one.attack != "prefill" else 400 - 4 - bad
            candidate, other = rate(high, 400, undecided=doubt), rate(base, 400)
        else:
            candidate, other = rate(400 - bad - doubt, 400, undecided=doubt), rate(400 - base, 400)
        name = one.judge.name
        measured.append(measurement(one.sli, one.suite, candidate, other, attack=one.attack, judge=name))
    return tuple(measured)


def worsened(one: Measurement, kind: str) -> Measurement | None:
    """One item turned for the worse, everything else as it was; None where nothing can get worse that way."""
    mine, pairs = one.candidate, one.pairs
    more_is_worse = one.sli in WORSE_IS_MORE
    clean = mine.n - mine.hits - mine.undecided - mine.errors
    if more_is_worse and clean and kind in ("hit", "undecided", "errors"):
        new = rate(
            mine.hits + (kind == "hit"),
            mine.n,
            mine.undecided + (kind == "undecided"),
            mine.errors + (kind == "errors"),
        )
        shared = mine.hits + mine.undecided + mine.errors - pairs.candidate_only
        return measurement(one.sli, one.suite, new, one.base, attack=one.attack, judge=one.judge.name, both=shared)
    if not more_is_worse and pairs.candidate_only + (mine.hits - pairs.candidate_only) and mine.hits:
        lost_from_both = pairs.candidate_only == 0
        new = rate(mine.hits - 1, mine.n, mine.undecided + (kind == "undecided"), mine.errors + (kind == "errors"))
        shared = mine.hits - pairs.candidate_only - lost_from_both
        return measurement(one.sli, one.suite, new, one.base, attack=one.attack, judge=one.judge.name, both=shared)
    return None


@settings(max_examples=120)
@given(reports(), st.integers(0, 4), st.sampled_from(["hit", "undecided", "errors"]), st.integers(1, 12))
def test_worsening_a_metric_never_turns_a_denial_into_a_promotion(
    measured: tuple[Measurement, ...], which: int, kind: str, times: int
) -> None:
    before = verdict(chain(DEFAULT.digest, measurements=measured))
    one = measured[which]
    for _ in range(times):
        one = worsened(one, kind) or one
    changed = (*measured[:which], one, *measured[which + 1 :])
    after = verdict(chain(DEFAULT.digest, measurements=changed))
    assert before is Verdict.PASSED or after is not Verdict.PASSED


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_leaving_more_flagged_rows_in_never_helps(flagged: int, left: int, more: int) -> None:
    left = min(left, flagged)
    worse = min(left + more, flagged)
    before = verdict(chain(DEFAULT.digest, flagged=flagged, left_in=left))
    after = verdict(chain(DEFAULT.digest, flagged=flagged, left_in=worse))
    assert before is Verdict.PASSED or after is not Verdict.PASSED
