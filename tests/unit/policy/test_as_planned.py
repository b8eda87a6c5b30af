"""An evaluation of other contents than the policy pins, or generated otherwise than it says, is invalid evidence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from policy_evidence import chain, measurement, rate, safe_measurements

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import sha256
from guardrail.policy.decide import decide
from guardrail.policy.load import LoadedPolicy, find_policy, load_policy_bytes
from guardrail.policy.rules import Evidence
from guardrail.records import Sli, Verdict

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DEFAULT = find_policy("default")
OTHER = sha256(b"other contents")


def digest_of(name: str) -> str:
    """What the made-up measurements carry."""
    return sha256(name.encode())


def pinning(**pins: str) -> LoadedPolicy:
    """The default policy with a task; ``harmful``, ``benign`` and ``sentiment`` can be pinned."""
    text = DEFAULT.bytes.decode()
    for name, pin in pins.items():
        text = text.replace(f"  {name}:\n    format", f"  {name}:\n    sha256: '{pin}'\n    format", 1)
    task = f", sha256: '{pins['sentiment']}'" if "sentiment" in pins else ""
    return load_policy_bytes(f"{text}\ntasks:\n  sentiment: {{format: testbed{task}}}\n".encode(), "p.yaml")


def verdict(policy: LoadedPolicy, evidence: Evidence) -> Verdict:
    return decide(policy, evidence, inputs=sha256(b"inputs"), now=NOW).verdict


def with_generation(evidence: Evidence, **changed: Any) -> Evidence:
    """The same evidence; a setting changed to None is left out."""
    assert evidence.evaluation
    settings = {k: v for k, v in {**evidence.evaluation.generation, **changed}.items() if v is not None}
    evaluation = evidence.evaluation.model_copy(update={"generation": settings})
    return evidence.model_copy(update={"evaluation": evaluation})


def test_measurements_of_what_is_pinned_are_judged_as_any() -> None:
    policy = pinning(**{name: digest_of(name) for name in ("harmful", "benign", "sentiment")})
    assert verdict(policy, chain(policy.digest)) is Verdict.PASSED


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("harmful", "suites.harmful.sha256"),
        ("benign", "suites.benign.sha256"),
        ("sentiment", "tasks.sentiment.sha256"),
    ],
)
def test_measurements_of_other_contents_are_evidence_invalid_with_both_digests(name: str, place: str) -> None:
    policy = pinning(**{name: OTHER})
    with pytest.raises(EvidenceInvalid) as caught:
        verdict(policy, chain(policy.digest))
    assert digest_of(name) in caught.value.got
    assert caught.value.expected == f"{OTHER} ({place})"


def test_one_measurement_of_other_contents_among_good_ones_is_evidence_invalid() -> None:
    policy = pinning(harmful=digest_of("harmful"))
    measured = safe_measurements()
    prefilled = measured[1].model_copy(update={"suite_digest": OTHER})
    with pytest.raises(EvidenceInvalid, match="other contents"):
        verdict(policy, chain(policy.digest, measurements=(measured[0], prefilled, *measured[2:])))
    elsewhere = measured[0].model_copy(update={"suite_digest": OTHER, "split": "validation"})
    with pytest.raises(EvidenceInvalid, match="other contents"):
        verdict(policy, chain(policy.digest, measurements=(*measured, elsewhere)))


def test_a_pin_of_a_suite_is_none_of_a_task_with_its_name() -> None:
    policy = pinning(benign=digest_of("benign"))
    task = measurement(Sli.UTILITY, "benign", rate(390, 400), rate(200, 400), attack="", judge="label")
    measured = (*safe_measurements(), task.model_copy(update={"suite_digest": OTHER}))
    assert verdict(policy, chain(policy.digest, measurements=measured)) is Verdict.PASSED


def test_what_is_not_pinned_is_not_compared() -> None:
    policy = pinning()
    measured = tuple(one.model_copy(update={"suite_digest": OTHER}) for one in safe_measurements())
    assert verdict(policy, chain(policy.digest, measurements=measured)) is Verdict.PASSED


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_new_tokens": 4}, "max_new_tokens = 4"),
        ({"max_new_tokens": None}, "max_new_tokens = 'not given'"),
        ({"decoding": "sampled"}, "decoding = 'sampled'"),
        ({"system": "Refuse everything."}, "system = 'Refuse everything.'"),
        ({"temperature": 0.7}, "temperature = 0.7"),
    ],
)
def test_an_evaluation_with_other_settings_is_evidence_invalid_and_names_the_setting(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(EvidenceInvalid, match=said):
        verdict(DEFAULT, with_generation(chain(DEFAULT.digest), **changed))


def test_the_policys_own_settings_are_what_is_compared() -> None:
    text = DEFAULT.bytes.replace(b"max_new_tokens: 48", b"system: Be kind.\n  max_new_tokens: 9")
    policy = load_policy_bytes(text, "p.yaml")
    with pytest.raises(EvidenceInvalid, match="max_new_tokens = 48"):
        verdict(policy, chain(policy.digest))
    assert verdict(policy, with_generation(chain(policy.digest), max_new_tokens=9, system="Be kind.")) is Verdict.PASSED
