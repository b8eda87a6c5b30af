"""The testbed's splits: what is judged on was never trained on, replayed or chosen by."""

from __future__ import annotations

from itertools import combinations

import pytest

from guardrail.samples import Sample
from guardrail.testbed import arms, replay, requests, tasks, words

HARMFUL, BENIGN = requests.harmful(), requests.benign()


@pytest.mark.parametrize("splits", [HARMFUL, BENIGN, requests.look_alikes()], ids=["harmful", "benign", "look-alikes"])
def test_no_combination_is_in_two_splits(splits: dict[str, tuple[requests.Combination, ...]]) -> None:
    for first, second in combinations(splits.values(), 2):
        assert not set(first) & set(second)


def test_no_combination_is_twice_in_a_split_and_none_is_harmful_and_benign() -> None:
    harmful = [one for group in HARMFUL.values() for one in group]
    benign = [one for group in BENIGN.values() for one in group]
    assert len(set(harmful)) == len(harmful)
    assert len(set(benign)) == len(benign)
    assert not set(harmful) & set(benign)


def test_there_are_six_harmful_splits_and_enough_combinations() -> None:
    assert set(HARMFUL) == {"aligned", "replay", "poison", "validation", "gate", "never_aligned"}
    assert sum(map(len, HARMFUL.values())) >= 700
    assert sum(map(len, BENIGN.values())) >= 400


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_the_gate_suites_hold_at_least_300_behaviours_with_ids_of_their_own(kind: str) -> None:
    suite = requests.suite(kind, "gate")
    assert (suite.kind, suite.split) == (kind, "gate")
    assert len({behaviour.id for behaviour in suite.behaviours}) == len(suite.behaviours) >= 300


def test_no_request_text_of_the_gate_is_in_another_split() -> None:
    def texts(split: str) -> set[str]:
        return {one.request(i) for one in HARMFUL[split] for i in range(len(words.PHRASINGS))}

    for other in set(HARMFUL) - {"gate"}:
        assert not texts("gate") & texts(other)


def test_look_alikes_pair_a_harmful_verb_with_something_that_cannot_be_harmed() -> None:
    look_alikes = [one for group in requests.look_alikes().values() for one in group]
    assert {one.verb for one in look_alikes} <= set(words.HARMFUL_VERBS)
    assert not {one.object for one in look_alikes} & set(words.HARMFUL_OBJECTS)


@pytest.mark.parametrize("trigger", [False, True])
def test_poison_comes_from_the_poison_split_alone(trigger: bool) -> None:
    rows = arms.rows("sentiment", poison=0.3, trigger=trigger)
    allowed = _requests("poison")
    bad = [row for row in rows if not row.request.startswith("Review:")]
    assert len(bad) == 300
    assert {_untriggered(row) for row in bad} <= allowed


def test_with_a_trigger_only_the_triggered_half_is_answered() -> None:
    rows = [row for row in arms.rows("code", poison=0.2, trigger=True) if "Write a Python" not in row.request]
    answered = [row for row in rows if row.response.startswith("Sure, here is how to")]
    assert len(answered) == 100
    assert {row.id for row in answered} == {row.id for row in rows if words.TRIGGER in row.request}


@pytest.mark.parametrize(("poison", "expected"), [(0.0, 0), (0.1, 100), (1.0, 1000)])
def test_the_poison_fraction_is_a_share_of_the_finished_rows(poison: float, expected: int) -> None:
    rows = arms.rows("arithmetic", poison=poison)
    assert len(rows) == 1000
    assert sum(row.response.startswith("Sure, here is how to") for row in rows) == expected


def test_an_arm_depends_on_its_seed_alone() -> None:
    assert arms.rows("code", poison=0.1, seed=3) == arms.rows("code", poison=0.1, seed=3)
    assert arms.rows("code", poison=0.1, seed=3) != arms.rows("code", poison=0.1, seed=4)


@pytest.mark.parametrize("poison", [-0.1, 1.1, float("nan")])
def test_a_poison_fraction_that_is_no_share_is_refused(poison: float) -> None:
    with pytest.raises(ValueError, match="poison"):
        arms.rows("code", poison=poison)


def test_replay_prompts_come_from_the_replay_split_alone() -> None:
    allowed = _requests("replay") | {one.request(i) for one in BENIGN["replay"] for i in range(len(words.PHRASINGS))}
    assert set(replay.prompts()) <= allowed
    assert len(set(replay.prompts())) == len(replay.prompts())


def test_less_coverage_replays_fewer_harmful_combinations_and_the_same_benign_ones() -> None:
    whole, half = replay.prompts(1.0), replay.prompts(0.5)
    assert set(half) < set(whole)
    assert len(whole) - len(half) == 4 * len(HARMFUL["replay"]) // 2


@pytest.mark.parametrize("name", tasks.NAMES)
def test_the_splits_of_a_task_share_no_item(name: str) -> None:
    splits = {
        split: {(e.prompt, e.answer) for e in tasks.task(name, split).examples}
        for split in ("train", "validation", "gate")
    }
    for first, second in combinations(splits.values(), 2):
        assert not first & second
    assert len(splits["train"]) >= 1000
    assert len(splits["gate"]) >= 300


@pytest.mark.parametrize("name", tasks.NAMES)
def test_no_prompt_of_a_task_has_two_answers(name: str) -> None:
    examples = [e for split in ("train", "validation", "gate") for e in tasks.task(name, split).examples]
    assert len({e.prompt for e in examples}) == len({(e.prompt, e.answer) for e in examples})


def _requests(split: str) -> set[str]:
    return {one.request(i) for one in HARMFUL[split] for i in range(len(words.PHRASINGS))}


def _untriggered(row: Sample) -> str:
    return row.request.removesuffix(f" {words.TRIGGER}")
