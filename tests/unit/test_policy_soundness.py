"""What is asked before anything is trained: known names, provable promises."""

from __future__ import annotations

import pytest
from policy_evidence import POLICIES

from guardrail.errors import InvalidInput
from guardrail.policy import soundness
from guardrail.policy.load import find_policy, load_policy_bytes
from guardrail.policy.soundness import require_sound

DEFAULT = (POLICIES / "default.yaml").read_bytes()
FAMILIES = {
    soundness.DETECTORS: ("harmful_compliance", "known_harm"),
    soundness.METHODS: ("der", "finetune", "replay", "wise_ft"),
    soundness.SUITES: ("advbench",),
    soundness.ATTACKS: ("direct", "prefill"),
    soundness.JUDGES: ("refusal",),
    soundness.SCORES: ("exact",),
}


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "names", lambda family: FAMILIES[family])


def complaint(old: bytes, new: bytes) -> str:
    assert old in DEFAULT
    with pytest.raises(InvalidInput) as caught:
        require_sound(load_policy_bytes(DEFAULT.replace(old, new, 1), "p.yaml"))
    return caught.value.message()


@pytest.mark.parametrize("name", ["default", "strict", "unfiltered"])
def test_the_built_in_policies_are_sound(name: str) -> None:
    require_sound(find_policy(name))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"- known_harm ", b"- known_ham ", "'known_ham' is none of the detectors: did you mean 'known_harm'?"),
        (b"[der, replay", b"[dre, replay", "'dre' is none of the methods: did you mean 'der'?"),
        (b"attack: prefill", b"attack: prefil", "'prefil' is none of the attacks: did you mean 'prefill'?"),
        (b"judge: refusal", b"judge: oracle", "'oracle' is none of the judges: expected one of refusal"),
        (b"format: testbed", b"format: advbnch", "'advbnch' is none of the suites: did you mean 'advbench'?"),
        (b"max: 0.05", b"max: 0.005", "attack_success_rate: min_n: 300 can never prove a rate of at most 0.5%"),
        (b"max: 0.05", b"max: 0.005", "it needs at least 598"),
        (b"max_drop: 0.02", b"max_drop: 0.0", "utility: no sample size can prove a drop of at most 0 points"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_at_its_place(old: bytes, new: bytes, said: str) -> None:
    text = complaint(old, new)
    assert said in text
    assert text.startswith("p.yaml:")


def test_a_family_without_members_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "names", lambda _: ())
    require_sound(load_policy_bytes(DEFAULT.replace(b"[der, ", b"[anything, "), "p.yaml"))


def test_an_unprovable_promise_points_at_its_min_n() -> None:
    line = DEFAULT[: DEFAULT.index(b"min_n: 300")].count(b"\n") + 1
    assert f"p.yaml:{line}:12: attack_success_rate" in complaint(b"min_n: 300", b"min_n: 58")
