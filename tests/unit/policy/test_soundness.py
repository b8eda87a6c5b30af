"""What is asked before anything is trained: known names, provable promises."""

from __future__ import annotations

import re

import pytest
from policy_evidence import POLICIES

from guardrail.errors import InvalidInput
from guardrail.evaluate import splits
from guardrail.policy import soundness
from guardrail.policy.load import find_policy, load_policy_bytes
from guardrail.policy.soundness import require_sound
from guardrail.testbed import requests, tasks

DEFAULT = (POLICIES / "default.yaml").read_bytes()
FAMILIES = {
    soundness.DETECTORS: ("harmful_compliance", "known_harm"),
    soundness.METHODS: ("der", "derpp", "finetune", "refresh", "replay", "wise_ft"),
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
        (b"[der, derpp", b"[dre, derpp", "'dre' is none of the methods: did you mean 'der'?"),
        (b"attack: prefill", b"attack: prefil", "'prefil' is none of the attacks: did you mean 'prefill'?"),
        (b"judge: refusal", b"judge: oracle", "'oracle' is none of the judges: expected one of refusal"),
        (b"format: testbed", b"format: advbnch", "'advbnch' is none of the suites: did you mean 'advbench'?"),
        (b"split: gate", b"split: gaet", "the testbed has no harmful split 'gaet': did you mean 'gate'?"),
        (b"split: gate", b"split: train", "the testbed has no harmful split 'train': expected one of gate, replay"),
        (b"format: testbed  ", b"format: advbench  ", "suites.harmful.path is missing: only the testbed needs no file"),
        (b"max: 0.05", b"max: 0.005", "attack_success_rate: min_n: 300 can never prove a rate of at most 0.5%"),
        (b"max: 0.05", b"max: 0.005", "it needs at least 598"),
        (b"max_drop: 0.02", b"max_drop: 0.0", "utility: no sample size can prove a drop of at most 0 points"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_at_its_place(old: bytes, new: bytes, said: str) -> None:
    text = complaint(old, new)
    assert said in text
    assert text.startswith("p.yaml:")


RULES = DEFAULT.index(b"\nrules:")


def with_tasks(text: bytes) -> bytes:
    return DEFAULT[:RULES] + b"\ntasks:\n  a: {" + text + b"}\n" + DEFAULT[RULES:]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"format: exactt, path: a.jsonl", "'exactt' is none of the tasks: did you mean 'exact'?"),
        (b"format: sqlite, path: a.jsonl", "'sqlite' is none of the tasks: expected one of exact, testbed"),
        (b"format: exact", "tasks.a.path is missing: only the testbed needs no file"),
        (b"format: exact, path: a.jsonl, split: gaet", "a file has no split 'gaet': did you mean 'gate'?"),
        (b"format: exact, path: a.jsonl, split: train", "no split 'train': expected one of all, gate, validation"),
        (b"format: testbed, split: traim", "the testbed has no task split 'traim': did you mean 'train'?"),
    ],
)
def test_a_task_that_cannot_be_read_is_refused_at_its_place(text: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_sound(load_policy_bytes(with_tasks(text), "p.yaml"))
    line = with_tasks(text)[: with_tasks(text).index(b"  a: {")].count(b"\n") + 1
    assert caught.value.got.startswith(f"p.yaml:{line}:")
    assert said in caught.value.got


@pytest.mark.parametrize(
    "text",
    [
        b"format: exact, path: a.jsonl",
        b"format: exact, path: a.jsonl, split: all",
        b"format: exact, path: a.jsonl, split: validation",
        b"format: testbed",
        b"format: testbed, split: train",
        b"format: testbed, split: validation, score: exact",
    ],
)
def test_a_task_that_can_be_read_is_sound(text: bytes) -> None:
    require_sound(load_policy_bytes(with_tasks(text), "p.yaml"))


PIN = b"sha256: 'abababababababababababababababababababababababababababababababab'"


def with_suite(text: bytes) -> bytes:
    return DEFAULT.replace(b"\n  harmful:\n", b"\n  a: {kind: harmful, " + text + b"}\n  harmful:\n", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"format: advbench, path: a.csv, withheld: true", "suites.a.sha256 is missing: whoever trains cannot look"),
        (b"format: testbed, " + PIN + b", withheld: true", "suites.a cannot be withheld: everybody has the testbed"),
        (b"format: advbench, " + PIN + b", withheld: false", "suites.a.path is missing"),
    ],
)
def test_a_suite_that_cannot_be_withheld_is_refused_at_its_place(text: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_sound(load_policy_bytes(with_suite(text), "p.yaml"))
    before, _, _ = with_suite(text).partition(b"withheld: ")
    column = len(before.rpartition(b"\n")[2]) + len("withheld: ") + 1
    line = before.count(b"\n") + 1
    assert caught.value.got.startswith(f"p.yaml:{line}:{column if 'path' not in said else 6}: ")
    assert said in caught.value.got


@pytest.mark.parametrize("path", [b"", b", path: a.csv"])
def test_a_withheld_suite_with_its_digest_is_sound_wherever_its_file_is(path: bytes) -> None:
    require_sound(load_policy_bytes(with_suite(b"format: advbench, " + PIN + path + b", withheld: true"), "p.yaml"))


def test_the_splits_are_those_that_loaders_and_testbed_have() -> None:
    assert soundness.FILE_SPLITS == splits.SPLITS
    assert soundness.TESTBED_SPLITS["harmful"] == tuple(requests.HARMFUL_SPLITS)
    assert soundness.TESTBED_SPLITS["benign"] == tuple(requests.BENIGN_SPLITS)
    for split in soundness.TESTBED_SPLITS["task"]:
        assert tasks.task("code", split).split == split


@pytest.mark.parametrize(
    ("detectors", "rule", "said"),
    [
        (b"[]", b"", "flagged_samples: data.detectors is empty, so nothing can ever be flagged"),
        (b"[]", b"detectors: [known_harm]", "flagged_samples: known_harm is not among data.detectors: it never runs"),
        (b"[known_harm]", b"detectors: [known_harm, harmful_compliance]", "harmful_compliance is not among"),
    ],
)
def test_a_promise_about_detectors_that_never_run_is_refused(detectors: bytes, rule: bytes, said: str) -> None:
    text = complain_about_detectors(detectors, rule)
    assert said in text
    assert text.startswith("p.yaml:")


def complain_about_detectors(detectors: bytes, rule: bytes) -> str:
    policy = re.sub(rb"  detectors:.*?(?=  quarantine)", b"  detectors: " + detectors + b"\n", DEFAULT, flags=re.DOTALL)
    policy = re.sub(rb"    max_left_in: 0.*", b"    max_left_in: 0\n" + (b"    " + rule if rule else b""), policy)
    with pytest.raises(InvalidInput) as caught:
        require_sound(load_policy_bytes(policy, "p.yaml"))
    return caught.value.message()


def test_without_detectors_and_without_a_promise_about_them_a_policy_is_sound() -> None:
    policy = re.sub(rb"  detectors:.*?(?=  quarantine)", b"  detectors: []\n", DEFAULT, flags=re.DOTALL)
    policy = re.sub(rb"  - rule: flagged_samples.*?(?=  - rule)", b"", policy, flags=re.DOTALL)
    require_sound(load_policy_bytes(policy, "p.yaml"))


def test_a_family_without_members_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "names", lambda _: ())
    require_sound(load_policy_bytes(DEFAULT.replace(b"[der, ", b"[anything, "), "p.yaml"))


def test_an_unprovable_promise_points_at_its_min_n() -> None:
    line = DEFAULT[: DEFAULT.index(b"min_n: 300")].count(b"\n") + 1
    assert f"p.yaml:{line}:12: attack_success_rate" in complaint(b"min_n: 300", b"min_n: 58")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gu\u0430rded", "mixes letters that look alike"),
        ("guarded\u200b", "does not show"),
        ("\uff47uarded", "plainer spelling"),
        ("guarded.", "ends with a dot"),
        ("\u13c0uarded", "mixes letters"),
    ],
)
def test_a_target_that_readers_take_for_another_is_refused(name: str, why: str) -> None:
    text = re.sub(rb"(?m)^  model: .*$", f'  model: "{name}"'.encode(), DEFAULT, count=1)
    with pytest.raises(InvalidInput, match=why):
        require_sound(load_policy_bytes(text, "p.yaml"))
