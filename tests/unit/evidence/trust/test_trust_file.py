"""Trust files: signed by enough roots, newer than what was seen, not expired, and making sense; or refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from trust_files import ALIAS, CAST, MODEL, NOW, POLICY, ROOTS, entries, guarded, ids, key, public, signed, trust

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import LARGEST, sign
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.trust.trust_file import (
    TRUST_TYPE,
    GuardedModel,
    ProtectedAlias,
    Root,
    Trust,
    add_trust_signature,
    load_successor,
    load_trust,
    sign_trust,
)

GOOD = signed(trust())


def load(data: bytes, **given: Any) -> Trust:
    return load_trust(data, **{"roots": public(*ROOTS), "threshold": 2, "now": NOW, **given})


def test_a_signed_file_says_who_may_do_what() -> None:
    loaded = load(GOOD)
    assert loaded == trust()
    assert loaded.keys_of("evaluate") == tuple(public("evaluate"))
    assert loaded.person_of(ids("train")[0]) == "training pipeline"
    assert loaded.person_of("0" * 64) == ""


def test_securesystemslib_alone_verifies_it() -> None:
    Envelope.from_dict(json.loads(GOOD)).verify(public(*ROOTS), 2)


@pytest.mark.parametrize("name", [MODEL, "GUARDED", "guarded ", "\uff27uarded", "guard\u200bed"])
def test_a_guarded_model_is_guarded_under_every_spelling(name: str) -> None:
    found = trust().guarded(name)
    assert found is not None
    protected = found.protected(ALIAS.upper())
    assert protected is not None
    assert protected.policy == POLICY


def test_another_model_is_not_guarded() -> None:
    assert trust().guarded("guarded2") is None
    assert trust().looks_like("guarded2") is None


@pytest.mark.parametrize("name", [MODEL, "gu\u0430rded", "\u0261uarded", "GU\u0410RDED", "guard\u0435d"])
def test_the_model_that_a_name_looks_like_is_found(name: str) -> None:
    assert trust().looks_like(name) == guarded()
    assert (trust().guarded(name) is None) == (name != MODEL)


def test_of_many_models_the_one_that_is_meant_is_found() -> None:
    many = trust(models=tuple(guarded(f"model {number}") for number in range(50)))
    assert many.guarded("MODEL 49") == many.models[49]
    assert many.looks_like("m\u043edel 48") == many.models[48]
    assert many.guarded("x" * 1_000_000) == many.models[0]
    assert guarded().protected("staging") is None


@settings(max_examples=300)
@given(st.data())
def test_changing_any_byte_is_refused(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(GOOD) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != GOOD[position]))
    with pytest.raises(EvidenceInvalid):
        load(GOOD[:position] + bytes([value]) + GOOD[position + 1 :])


@settings(max_examples=100)
@given(
    st.binary(max_size=300) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(lambda x: repr(x).encode())
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceInvalid):
        load(data)


@settings(max_examples=60)
@given(st.sets(st.sampled_from(["ana", "ben", "cem", "train", "stranger"]), min_size=1), st.integers(1, 3))
def test_exactly_enough_roots_and_nobody_else_are_asked_for(names: set[str], threshold: int) -> None:
    """Foreign keys and keys that are in the file but no roots are refused, however many roots signed as well."""
    value = trust(root=Root(threshold=threshold, keys=ids(*ROOTS)))
    enough = names <= set(ROOTS) and len(names) >= threshold
    if enough:
        assert load(signed(value, *names), threshold=threshold) == value
    else:
        with pytest.raises(EvidenceInvalid):
            load(signed(value, *names), threshold=threshold)


def test_a_signature_that_is_doubled_counts_once() -> None:
    plain = json.loads(signed(trust(), "ana"))
    plain["signatures"] *= 2
    with pytest.raises(EvidenceInvalid):
        load(canonical(plain))


def test_the_reader_s_own_threshold_holds_whatever_the_file_says() -> None:
    lax = trust(root=Root(threshold=1, keys=ids(*ROOTS)))
    with pytest.raises(EvidenceInvalid, match="signed by 1 of the root keys that you gave"):
        load(signed(lax, "ana"))
    for threshold in (0, 4):
        with pytest.raises(InvalidInput, match="threshold"):
            load(GOOD, threshold=threshold)


def test_a_root_that_signs_itself_is_not_trusted() -> None:
    own = trust(root=Root(threshold=1, keys=ids("stranger")), keys=entries(**CAST, stranger="A Stranger"))
    with pytest.raises(EvidenceInvalid, match="signed by 0 of the root keys"):
        load(signed(own, "stranger"))


def test_two_keys_of_one_person_count_as_one() -> None:
    twice = trust(
        root=Root(threshold=2, keys=ids("ana", "ana2", "ben")),
        keys=entries(**CAST, ana2=CAST["ana"]),
    )
    with pytest.raises(EvidenceInvalid, match="signed by 1 of the persons"):
        load(signed(twice, "ana", "ana2"), roots=public("ana", "ana2", "ben"))
    assert load(signed(twice, "ana", "ben"), roots=public("ana", "ana2", "ben")) == twice


@pytest.mark.parametrize("late", [timedelta(), timedelta(seconds=1), timedelta(days=400)])
def test_an_expired_file_is_refused(late: timedelta) -> None:
    with pytest.raises(EvidenceInvalid, match="expired"):
        load(GOOD, now=trust().expires + late)


def test_a_file_from_the_future_is_refused_save_for_clocks_that_differ_a_little() -> None:
    assert load(GOOD, now=trust().issued - timedelta(minutes=4)) == trust()
    with pytest.raises(EvidenceInvalid, match="still to come"):
        load(GOOD, now=trust().issued - timedelta(minutes=6))


def test_an_older_version_is_refused() -> None:
    assert load(GOOD, at_least=3) == trust()
    with pytest.raises(EvidenceInvalid, match="has version 3"):
        load(GOOD, at_least=4)


def test_a_huge_file_is_refused_before_it_is_parsed() -> None:
    for data in (b" " * 100_000_000, b"[" * (LARGEST + 1)):
        with pytest.raises(EvidenceInvalid, match="bytes"):
            load(data)


def test_the_payload_has_one_form_too() -> None:
    plain = json.loads(canonical(trust()))
    offset = {**plain, "issued": plain["issued"].replace("Z", "+00:00")}
    local = {**plain, "issued": plain["issued"].replace("Z", "+02:00")}
    forms = (
        json.dumps(plain).encode(),
        canonical(offset),
        canonical(local),
        canonical({**plain, "note": 1}),
        canonical({**plain, "version": "3"}),
        canonical({**plain, "version": 0}),
        b"null",
        b"\xff",
    )
    for payload in forms:
        with pytest.raises(EvidenceInvalid):
            load(sign(payload, key("ana"), key("ben"), payload_type=TRUST_TYPE))


def roles(**names: tuple[str, ...]) -> Any:
    return trust().roles.model_copy(update={role: ids(*given) for role, given in names.items()})


SENSELESS: dict[str, dict[str, Any]] = {
    "evaluator and trainer with one key": {"roles": roles(evaluate=("train",))},
    "approver and trainer with one key": {"roles": roles(approve=("ana", "train"))},
    "decider and trainer with one key": {"roles": roles(decide=("train",))},
    "evaluator and trainer with two keys": {"keys": entries(**{**CAST, "evaluate": CAST["train"]})},
    "approver and trainer with two keys": {"keys": entries(**{**CAST, "ben": CAST["train"]})},
    "the trainer in another case": {"keys": entries(**{**CAST, "evaluate": "Training Pipeline"})},
    "the trainer in full width": {"keys": entries(**{**CAST, "evaluate": "\uff54raining pipeline"})},
    "the trainer with a zero-width space": {"keys": entries(**{**CAST, "evaluate": "training\u200b pipeline"})},
    "the trainer with a Turkish i": {"keys": entries(**{**CAST, "evaluate": "tra\u0131ning pipeline"})},
    "the trainer with a trailing space": {"keys": entries(**{**CAST, "evaluate": "training pipeline "})},
    "the trainer with a trailing dot": {"keys": entries(**{**CAST, "evaluate": "training pipeline."})},
    "the trainer with a Cyrillic letter": {"keys": entries(**{**CAST, "evaluate": "tr\u0430ining pipeline"})},
    "the trainer wholly in another script": {
        "keys": entries(**{**CAST, "train": "scope", "evaluate": "\u0455\u0441\u043e\u0440\u0435"})
    },
    "the trainer with another hyphen": {"keys": entries(**{**CAST, "train": "ci-job", "evaluate": "ci\u2010job"})},
    "the trainer with a minus sign": {"keys": entries(**{**CAST, "train": "ci-job", "evaluate": "ci\u2212job"})},
    "the trainer with a one for an l": {"keys": entries(**{**CAST, "train": "pool", "evaluate": "poo1"})},
    "an approver with a capital I for an l": {"keys": entries(**{**CAST, "ana": "Al Ruiz", "ben": "AI Ruiz"})},
    "a person with an escape code": {"keys": entries(**{**CAST, "evaluate": "job\x1b[2J"})},
    "an unknown key in a role": {"roles": roles(evaluate=("stranger",))},
    "a key twice in a role": {"roles": roles(evaluate=("evaluate", "evaluate"))},
    "an unknown key in the root": {"root": Root(threshold=2, keys=ids("ana", "ben", "stranger"))},
    "a key twice in the root": {"root": Root(threshold=2, keys=ids("ana", "ben", "ana"))},
    "a threshold above the persons": {"root": Root(threshold=4, keys=ids(*ROOTS))},
    "nobody evaluates": {"roles": roles(evaluate=())},
    "nobody decides": {"roles": roles(decide=())},
    "more approvals than approvers": {"models": (guarded(approvals=3),)},
    "a model twice": {"models": (guarded(), guarded())},
    "a model in another case": {"models": (guarded(), guarded("Guarded"))},
    "a model with the Kelvin sign": {"models": (guarded("kit"), guarded("\u212ait"))},
    "a model with another hyphen": {"models": (guarded("a-model"), guarded("a\u2010model"))},
    "a model wholly in another script": {"models": (guarded("scope"), guarded("\u0455\u0441\u043e\u0440\u0435"))},
    "a model with a one for an l": {"models": (guarded("model-l"), guarded("model-1"))},
    "a model with rn for m": {"models": (guarded("model"), guarded("rnodel"))},
    "a model with a trailing dot": {"models": (guarded("guarded."),)},
    "a model with a zero-width space": {"models": (guarded("guar\u200bded"),)},
    "an alias in another case": {
        "models": (
            GuardedModel(
                name=MODEL,
                aliases=(
                    ProtectedAlias(alias="production", policy=POLICY),
                    ProtectedAlias(alias="Production", policy=POLICY),
                ),
            ),
        )
    },
    "an alias with a nought for an o": {
        "models": (
            GuardedModel(
                name=MODEL,
                aliases=(
                    ProtectedAlias(alias="production", policy=POLICY),
                    ProtectedAlias(alias="pr0duction", policy=POLICY),
                ),
            ),
        )
    },
    "a key under another id": {"keys": {**trust().keys, ids("evaluate")[0]: trust().keys[ids("train")[0]]}},
    "a key in another PEM": {
        "keys": {
            **trust().keys,
            ids("evaluate")[0]: trust()
            .keys[ids("evaluate")[0]]
            .model_copy(update={"pem": key_pairs.public_pem(public("evaluate")[0]) + "\n"}),
        }
    },
    "a key that is none": {
        "keys": {
            **trust().keys,
            ids("evaluate")[0]: trust().keys[ids("evaluate")[0]].model_copy(update={"pem": "none"}),
        }
    },
    "expired before it was issued": {"issued": NOW + timedelta(minutes=1), "expires": NOW + timedelta(seconds=1)},
}


@pytest.mark.parametrize("name", SENSELESS)
def test_a_file_that_makes_no_sense_is_refused_however_well_signed(name: str) -> None:
    value = trust(**SENSELESS[name])
    with pytest.raises(EvidenceInvalid, match="makes no sense"):
        load(signed(value))
    with pytest.raises(InvalidInput):
        sign_trust(value, key("ana"))
    with pytest.raises(EvidenceInvalid):
        add_trust_signature(signed(value, "ana"), key("ben"))


def test_a_guarded_model_needs_an_alias() -> None:
    plain = json.loads(canonical(trust()))
    plain["models"][0]["aliases"] = []
    with pytest.raises(EvidenceInvalid, match=r"models\.0\.aliases"):
        load(sign(canonical(plain), key("ana"), key("ben"), payload_type=TRUST_TYPE))


def test_one_person_may_do_it_all_only_where_the_file_says_so_in_as_many_words() -> None:
    alone = {"roles": roles(train=("ana",), evaluate=("ana",), approve=("ana",))}
    with pytest.raises(EvidenceInvalid, match="must not evaluate"):
        load(signed(trust(**alone)))
    loaded = load(signed(trust(**alone, one_person_may_train_evaluate_and_approve=True)))
    assert loaded.one_person_may_train_evaluate_and_approve


def test_signatures_are_added_one_by_one() -> None:
    first = sign_trust(trust(), key("ben"))
    with pytest.raises(EvidenceInvalid):
        load(first)
    assert add_trust_signature(first, key("ana")) == GOOD


NEW = ("ben", "dia", "eli")
ROTATED = trust(
    version=4,
    root=Root(threshold=2, keys=ids(*NEW), previous=ids("ana")),
    keys=entries(**CAST, dia="Dia Rao", eli="Eli Katz"),
)


def test_a_new_root_is_signed_by_the_old_root_and_by_itself() -> None:
    data = signed(ROTATED, "ana", "ben", "dia")
    assert load_successor(data, trust(), now=NOW) == ROTATED
    assert load(data) == ROTATED  # a reader who only has the old root's keys
    assert load(data, roots=public(*NEW)) == ROTATED  # and one who only has the new root's


@pytest.mark.parametrize(
    "names", [("ana", "ben"), ("ben", "dia"), ("dia", "eli"), ("ben",), ("ana", "dia", "stranger")]
)
def test_a_new_root_without_enough_of_either_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(EvidenceInvalid):
        load_successor(signed(ROTATED, *names), trust(), now=NOW)


def test_a_successor_is_newer_or_the_very_same() -> None:
    assert load_successor(GOOD, trust(), now=NOW) == trust()
    other = trust(models=(guarded(), guarded("another")))
    for value in (other, trust(version=2)):
        with pytest.raises(EvidenceInvalid, match="has version"):
            load_successor(signed(value), trust(), now=NOW)
    skipped = trust(version=9)
    assert load_successor(signed(skipped), trust(), now=NOW) == skipped
    with pytest.raises(EvidenceInvalid, match="expired"):
        load_successor(signed(trust(version=4, expires=NOW)), trust(), now=NOW)


def test_ecdsa_roots_sign_as_well() -> None:
    curve = key("curve", "ecdsa")
    entry = {
        curve.public_key.keyid: next(iter(entries(ana="Fay Ng").values())).model_copy(
            update={"pem": key_pairs.public_pem(curve.public_key)}
        )
    }
    value = trust(root=Root(threshold=2, keys=(*ids("ana"), curve.public_key.keyid)), keys={**trust().keys, **entry})
    data = sign_trust(value, key("ana"), curve)
    assert load(data, roots=[*public("ana"), curve.public_key]) == value
