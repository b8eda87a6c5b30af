"""Trust files: signed as required, valid now, consistent; names compared folded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from trust_files import Person, guarded_model, person, signed, trust

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust import Roles, Trust, load_trust

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    folder: Path = tmp_path_factory.mktemp("people")
    return {name: person(folder, name) for name in ("one", "two", "three", "decider")}


@pytest.fixture
def good(people: dict[str, Person]) -> Trust:
    return trust(people["one"], people["decider"], [guarded_model("guarded")], now=NOW)


def load(
    data: bytes, people: dict[str, Person], *, threshold: int = 1, now: datetime = NOW, at_least: int = 0
) -> Trust:
    roots = [people[name].public for name in ("one", "two", "three")]
    return load_trust(data, roots=roots, threshold=threshold, now=now, at_least=at_least)


def test_two_of_three_root_keys_are_enough_and_one_is_not(people: dict[str, Person], good: Trust) -> None:
    assert load(signed(good, people["one"], people["three"]), people, threshold=2) == good
    with pytest.raises(EvidenceInvalid, match="1 signatures"):
        load(signed(good, people["one"]), people, threshold=2)


def test_a_key_that_is_no_root_signs_nothing(people: dict[str, Person], good: Trust) -> None:
    with pytest.raises(EvidenceInvalid, match="not given"):
        load(signed(good, people["one"], people["decider"]), people)


@pytest.mark.parametrize("name", ["guarded", "GUARDED", "Guarded", chr(0xFF47) + "uarded", "guardeD"])
def test_names_are_compared_folded(good: Trust, name: str) -> None:
    assert good.guarded(name) is not None
    assert good.guarded(name + "2") is None


@pytest.mark.parametrize("now", [NOW - timedelta(days=1), NOW + timedelta(days=31)])
def test_it_is_valid_in_its_time_only(people: dict[str, Person], good: Trust, now: datetime) -> None:
    with pytest.raises(EvidenceInvalid, match="valid from"):
        load(signed(good, people["one"]), people, now=now)


def test_an_older_version_is_refused(people: dict[str, Person], good: Trust) -> None:
    assert load(signed(good, people["one"]), people, at_least=1) == good
    with pytest.raises(EvidenceInvalid, match="at least 2"):
        load(signed(good, people["one"]), people, at_least=2)


def changed(**values: object) -> Callable[[Trust], Trust]:
    return lambda value: value.model_copy(update=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(roles=Roles(decide=("0" * 64,))), "names no key"),
        (changed(models=(guarded_model("guarded"), guarded_model("Guarded"))), "names a model twice"),
        (lambda t: t.model_copy(update={"keys": {"0" * 64: next(iter(t.keys.values()))}}), "another id"),
        (lambda t: t.model_copy(update={"roles": Roles(train=tuple(t.keys), evaluate=tuple(t.keys))}), "train and"),
        (lambda t: t.model_copy(update={"roles": Roles(train=tuple(t.keys), approve=tuple(t.keys))}), "train and"),
    ],
)
def test_a_contradiction_is_refused(
    people: dict[str, Person], good: Trust, change: Callable[[Trust], Trust], message: str
) -> None:
    with pytest.raises(EvidenceInvalid, match=message):
        load(signed(change(good), people["one"]), people)


def test_one_person_may_do_everything_only_where_it_says_so(people: dict[str, Person], good: Trust) -> None:
    keys = tuple(good.keys)
    roles = Roles(train=keys, evaluate=keys, decide=keys, approve=keys)
    frightening = good.model_copy(update={"roles": roles, "one_person_may_train_evaluate_and_approve": True})
    assert load(signed(frightening, people["one"]), people).roles == roles


def test_keys_of_a_role_verify(people: dict[str, Person], good: Trust) -> None:
    assert [key.keyid for key in good.keys_of("decide")] == [people["decider"].public.keyid]
    assert good.keys_of("approve") == ()


def test_any_changed_byte_is_refused(people: dict[str, Person], good: Trust) -> None:
    data = signed(good, people["one"])
    for position in range(0, len(data), 97):
        with pytest.raises(EvidenceInvalid):
            load(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :], people)
