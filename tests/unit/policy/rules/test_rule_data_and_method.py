"""The rules about records other than the evaluation: flagged samples and the training method."""

from __future__ import annotations

import pytest
from policy_evidence import chain, merged_adapter, merging

from guardrail.evidence.digest import sha256
from guardrail.plugins import names
from guardrail.policy.rules import PACKAGE, Evidence, load_rule
from guardrail.records import Finding, Verdict

POLICY = sha256(b"policy")
BOTH = ("known_harm", "harmful_compliance")


def flagged(evidence: Evidence, max_left_in: int = 0, detectors: tuple[str, ...] = ()) -> Finding:
    rule = load_rule("flagged_samples")
    given = {"rule": "flagged_samples", "max_left_in": max_left_in, "detectors": detectors}
    return rule.check(evidence, rule.Limits.model_validate(given))


def method(evidence: Evidence, *allowed: str) -> Finding:
    rule = load_rule("training_method")
    return rule.check(evidence, rule.Limits.model_validate({"rule": "training_method", "allowed": allowed}))


@pytest.mark.parametrize(
    ("left", "limit", "expected"),
    [
        (0, 0, Verdict.PASSED),
        (1, 0, Verdict.FAILED),
        (5, 5, Verdict.PASSED),
        (6, 5, Verdict.FAILED),
    ],
)
def test_the_count_left_in_decides(left: int, limit: int, expected: Verdict) -> None:
    assert flagged(chain(POLICY, left_in=left), limit).verdict is expected


@pytest.mark.parametrize("by", ["rule", "policy"])
def test_a_detector_that_did_not_run_is_inconclusive(by: str) -> None:
    evidence = chain(POLICY)
    asked = (*BOTH, "spectral")
    if by == "rule":
        finding = flagged(evidence, detectors=asked)
    else:
        finding = flagged(evidence.model_copy(update={"detectors": asked}))
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.reason == "detectors that did not run: spectral"


def test_too_many_left_in_fail_whichever_detectors_ran() -> None:
    assert flagged(chain(POLICY, left_in=3), detectors=("spectral",)).verdict is Verdict.FAILED


def test_the_method_must_be_an_allowed_one() -> None:
    assert method(chain(POLICY, method="der"), "der", "replay").verdict is Verdict.PASSED
    assert method(chain(POLICY, method="finetune"), "der", "replay").verdict is Verdict.FAILED


def test_the_method_of_every_merged_adapter_must_be_an_allowed_one() -> None:
    clean, dirty = merged_adapter(POLICY, method="replay"), merged_adapter(POLICY, method="finetune")
    passed = method(merging(chain(POLICY), clean), "der", "replay")
    assert (passed.verdict, passed.reason) == (Verdict.PASSED, "trained by der, merged with adapters trained by replay")
    assert method(merging(chain(POLICY), clean, dirty), "der", "replay").verdict is Verdict.FAILED
    assert method(merging(chain(POLICY, method="finetune"), clean), "der", "replay").verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("own", "merged", "limit", "expected"),
    [
        (0, (0, 0), 0, Verdict.PASSED),
        (0, (0, 1), 0, Verdict.FAILED),
        (2, (2, 2), 6, Verdict.PASSED),
        (2, (2, 3), 6, Verdict.FAILED),
        (7, (0,), 6, Verdict.FAILED),
    ],
)
def test_flagged_rows_of_merged_adapters_count_as_this_runs_own(
    own: int, merged: tuple[int, ...], limit: int, expected: Verdict
) -> None:
    others = [merged_adapter(POLICY, left_in=left) for left in merged]
    finding = flagged(merging(chain(POLICY, left_in=own), *others), limit)
    assert finding.verdict is expected
    assert f"{own + sum(merged)} of {40 + 7 * len(merged)} flagged rows left in" in finding.reason


def test_a_detector_that_did_not_look_at_a_merged_adapters_rows_is_inconclusive() -> None:
    other = merged_adapter(POLICY, detectors=("known_harm",))
    finding = flagged(merging(chain(POLICY), other), detectors=BOTH)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.reason == "detectors that did not run: harmful_compliance"


def test_no_record_is_inconclusive() -> None:
    assert flagged(Evidence()).verdict is Verdict.INCONCLUSIVE
    assert method(Evidence(), "der").verdict is Verdict.INCONCLUSIVE


def test_an_empty_list_of_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        load_rule("training_method").Limits.model_validate({"rule": "training_method", "allowed": ()})


@pytest.mark.parametrize("name", names(PACKAGE))
def test_every_rule_file_offers_the_whole_interface_under_its_own_name(name: str) -> None:
    rule = load_rule(name)
    assert rule.__doc__
    assert rule.Limits.model_json_schema()["properties"]["rule"]["const"] == name
    assert all(callable(getattr(rule, part)) for part in ("needs", "unprovable", "check"))
