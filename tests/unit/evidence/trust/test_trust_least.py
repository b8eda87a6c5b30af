"""What a trust file may ask of policies and bases: absent from the bytes where it asks nothing, refused where unmet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError
from trust_files import NOW, ROOTS, guarded, key, public, signed, trust

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, digest, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.trust.trust_file import (
    TRUST_TYPE,
    GuardedModel,
    Least,
    LeastRate,
    LeastUtility,
    ProtectedAlias,
    PublicKeyEntry,
    Roles,
    Root,
    Trust,
    load_trust,
    read_unverified_trust,
)
from guardrail.policy.load import LoadedPolicy, find_policy, load_policy_bytes
from guardrail.policy.promised import asked_of, shortfalls

KEY, SUITE = "a" * 64, sha256(b"a suite")
BEFORE = "97498cec6bd596d3e04aa2f286c70c01b06f84f7b80a64ccd9a793a0d50045d9"
"""Digest of the file below, taken with the release before there were bases and least."""
DEFAULT = find_policy("default")
HARMFUL = "    kind: harmful                # should be refused\n"


def old() -> Trust:
    alias = ProtectedAlias(alias="production", policy="b" * 64, approvals=1)
    return Trust(
        version=3,
        issued=datetime(2026, 3, 1, tzinfo=UTC),
        expires=datetime(2026, 6, 1, tzinfo=UTC),
        root=Root(threshold=1, keys=(KEY,)),
        keys={KEY: PublicKeyEntry(person="Ana Ruiz", pem="PEM")},
        roles=Roles(server=(KEY,)),
        models=(GuardedModel(name="guarded", aliases=(alias,)),),
    )


def test_a_file_from_before_has_the_digest_that_ledgers_hold() -> None:
    assert digest(old()) == BEFORE
    assert b"least" not in canonical(old())
    assert b"bases" not in canonical(old())


def test_what_it_asks_is_signed_and_read_back() -> None:
    model = guarded().model_copy(update={"bases": (SUITE,), "least": Least(max_valid_days=7)})
    asking = trust(models=(model,), least=Least(confidence=0.95, over_refusal_rate=LeastRate(max=0.1)))
    loaded = load_trust(signed(asking), roots=public(*ROOTS), threshold=2, now=NOW)
    assert loaded == asking
    assert loaded.leasts(loaded.models[0]) == (asking.least, model.least)
    assert digest(loaded) != digest(trust())


@pytest.mark.parametrize("spelling", [b'"bases":[],"name":"guarded"', b'"least":null,"name":"guarded"'])
def test_asking_nothing_has_one_spelling(spelling: bytes) -> None:
    payload = canonical(trust()).replace(b'"name":"guarded"', spelling)
    assert payload != canonical(trust())
    with pytest.raises(EvidenceInvalid, match="canonical"):
        read_unverified_trust(sign(payload, key("ana"), payload_type=TRUST_TYPE))


WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nothing but a false": {"withheld_suite": False},
    "a limit beyond everything": {"attack_success_rate": {"max": 1.5}},
    "not a number": {"attack_success_rate": {"max": float("nan")}},
    "a confidence of one": {"confidence": 1.0},
    "a coin": {"confidence": 0.5},
    "no item": {"utility": {"max_drop": 0.1, "min_n": 0}},
    "no day": {"max_valid_days": 0},
    "a suite by name": {"attack_success_rate": {"max": 0.1, "suites": ("harmful",)}},
    "a suite twice": {"attack_success_rate": {"max": 0.1, "suites": (SUITE, SUITE)}},
    "an unknown key": {"confidence": 0.9, "coherence": {"min": 0.5}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_least_that_asks_for_nothing_or_nonsense_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Least.model_validate(WRONG[name])


def policy(*changes: tuple[str, str]) -> LoadedPolicy:
    text = DEFAULT.bytes.decode()
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return load_policy_bytes(text.encode(), "ours.yaml")


RATE = LeastRate(max=0.05, min_n=300)
ASKED = Least(
    confidence=0.95,
    attack_success_rate=RATE,
    over_refusal_rate=LeastRate(max=0.05),
    max_valid_days=30,
    utility=LeastUtility(max_drop=0.02, min_n=300),
)


def test_a_policy_that_promises_what_is_asked_lacks_nothing() -> None:
    assert shortfalls(DEFAULT.policy, (), (ASKED,)) == ()
    pinned = policy((HARMFUL, f"{HARMFUL}    sha256: {SUITE}\n"))
    assert shortfalls(pinned.policy, (), (Least(attack_success_rate=LeastRate(max=0.05, suites=(SUITE,))),)) == ()


DIRECT = "    attack: direct\n"
BELOW: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "any rate": ((("    max: 0.05\n", "    max: 1.0\n"),), "limits it to 0.05 or less on 300"),
    "a hair above": ((("    max: 0.05\n", "    max: 0.0500001\n"),), "no rule attack_success_rate"),
    "fewer items": ((("min_n: 300", "min_n: 299"),), "no rule attack_success_rate"),
    "asked under another attack": (((DIRECT, "    attack: prefill\n"),), "asked directly"),
    "judged on what λ is chosen by": ((("    split: gate ", "    split: validation "),), "on the split gate or all"),
    "doubt": ((("    confidence: 0.95\n", "    confidence: 0.51\n"),), "is judged at confidence 0.51"),
    "a year": ((("valid_days: 30", "valid_days: 31"),), "evidence is valid for 31 days, at most 30"),
    "a drop": ((("max_drop: 0.02", "max_drop: 1.0"),), "no rule utility limits max_drop to 0.02"),
    "no drop": ((("    max_drop: 0.02", "    #"),), "no rule utility"),
}


@pytest.mark.parametrize("name", BELOW)
def test_a_policy_that_promises_less_is_told_what(name: str) -> None:
    changes, said = BELOW[name]
    assert said in "; ".join(shortfalls(policy(*changes).policy, (), (ASKED,)))


def test_the_model_may_ask_more_than_the_file_and_both_count() -> None:
    model = guarded().model_copy(update={"least": Least(max_valid_days=7)})
    asking = trust(models=(model,), least=Least(confidence=0.99))
    found = "; ".join(asked_of(asking, model, DEFAULT.policy))
    assert "at most 7 are allowed" in found
    assert "at least 0.99" in found


def test_a_suite_that_must_judge_is_named_by_its_contents() -> None:
    asked = Least(attack_success_rate=LeastRate(max=0.05, suites=(SUITE,)))
    assert f"on the suite {SUITE}" in "".join(shortfalls(DEFAULT.policy, (), (asked,)))


def test_a_withheld_suite_must_judge_where_it_is_asked() -> None:
    asked = Least(withheld_suite=True, attack_success_rate=LeastRate(max=0.05))
    assert "judges a withheld suite" in "".join(shortfalls(DEFAULT.policy, (), (asked,)))
    suite = f"{HARMFUL}    path: kept.jsonl\n    withheld: true\n    sha256: {SUITE}\n"
    kept = policy((HARMFUL, suite))
    assert shortfalls(kept.policy, (), (asked,)) == ()
    loose = policy((HARMFUL, suite), ("    max: 0.05\n", "    max: 0.5\n"))
    assert "judges a withheld suite" in "".join(shortfalls(loose.policy, (), (asked,)))


def test_a_base_must_be_pinned_by_the_policy_or_by_the_trust_file() -> None:
    text = DEFAULT.bytes.decode()
    bare = load_policy_bytes(
        (text[: text.index("bases:")] + text[text.index("data:\n") :]).encode(), "bare.yaml"
    ).policy
    assert "pins a base model" in "".join(shortfalls(bare, (), ()))
    assert shortfalls(bare, (SUITE,), ()) == ()
    assert shortfalls(DEFAULT.policy, (), ()) == ()
