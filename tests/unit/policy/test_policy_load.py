"""A policy is read exactly or refused with the place of every mistake."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_evidence import POLICIES

from guardrail.errors import InvalidInput
from guardrail.policy.load import LoadedPolicy, builtin, builtin_names, find_policy, load_policy, load_policy_bytes

DEFAULT = (POLICIES / "default.yaml").read_bytes()
SMALL = b"""\
kind: PromotionPolicy
version: 1
name: small
target: {model: guarded, alias: production}
evidence: {valid_days: 30}
data: {detectors: [], quarantine: true}
suites:
  harmful: {format: testbed, kind: harmful}
rules:
  - rule: attack_success_rate
    suite: harmful
    max: 0.05
    min_n: 300
"""


def load(data: bytes) -> LoadedPolicy:
    return load_policy_bytes(data, "p.yaml")


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(data)
    return caught.value.message()


def test_a_policy_is_named_by_the_digest_of_its_bytes() -> None:
    assert load(SMALL).digest == hashlib.sha256(SMALL).hexdigest()
    assert load(SMALL + b"# reviewed\n").digest != load(SMALL).digest


def test_values_left_out_take_their_documented_defaults() -> None:
    policy = load(SMALL).policy
    assert (policy.suites["harmful"].split, policy.generation.max_new_tokens, policy.tasks) == ("gate", 48, {})
    assert policy.rules[0].model_dump() == {
        "rule": "attack_success_rate",
        "suite": "harmful",
        "attack": "direct",
        "judge": "refusal",
        "max": 0.05,
        "confidence": 0.95,
        "min_n": 300,
    }


@pytest.mark.parametrize("name", ["default", "strict", "unfiltered"])
def test_the_built_in_policies_load(name: str) -> None:
    assert name in builtin_names()
    assert find_policy(name).policy == load_policy(builtin(name)).policy


def test_only_the_unfiltered_policy_leaves_flagged_rows_in_and_its_name_warns() -> None:
    policies = {name: find_policy(name).policy for name in builtin_names()}
    assert {name for name, policy in policies.items() if not policy.data.quarantine} == {"unfiltered"}
    assert policies["unfiltered"].name == "unfiltered-data-dry-run"
    assert policies["unfiltered"].target.model != policies["default"].target.model


def test_an_unknown_built_in_is_answered_with_the_near_one() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'strict'"):
        find_policy("strikt")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read the policy .*nowhere\.yaml"):
        load_policy(tmp_path / "nowhere.yaml")
    with pytest.raises(InvalidInput, match="cannot read the policy"):
        load_policy(tmp_path)


def test_paths_in_a_policy_start_at_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(SMALL)
    assert load_policy(file).path("suites/a.csv") == tmp_path / "suites" / "a.csv"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"name: small", b"nmae: small", "p.yaml:3:1: unknown key 'nmae': did you mean 'name'?"),
        (b"max: 0.05", b"mx: 0.05", "p.yaml:12:5: unknown key 'mx': did you mean 'max'?"),
        (b"alias: production", b"alais: production", "p.yaml:4:26: unknown key 'alais': did you mean 'alias'?"),
        (b"format: testbed", b"fromat: testbed", "unknown key 'fromat': did you mean 'format'?"),
        (b"rule: attack_success_rate", b"rule: atack_success_rate", "p.yaml:10:11: unknown rule"),
        (b"rule: attack_success_rate", b"rule: atack_success_rate", "did you mean 'attack_success_rate'?"),
        (b"  - rule: attack_success_rate\n    suite", b"  - suite", "p.yaml:10:5: 'rule' is missing"),
        (b"max: 0.05", b"max: '0.05'", "p.yaml:12:10: rules.0.max must be a number"),
        (b"max: 0.05", b"max: true", "p.yaml:12:10: rules.0.max must be a number"),
        (b"max: 0.05", b"max: 5", "p.yaml:12:10: rules.0.max should be less than or equal to 1"),
        (b"max: 0.05", b"max: .nan", "p.yaml:12:10: '.nan' could be read in more than one way"),
        (b"min_n: 300", b"min_n: 0x10", "p.yaml:13:12: '0x10' could be read"),
        (b"min_n: 300", b"min_n: 1_000", "could be read in more than one way"),
        (b"harmful}", b"harmful, sha256: 5B0E}", "p.yaml:8:53: suites.harmful.sha256 String should match pattern"),
        (b"harmful}", b"harmful, sha256: 5}", "suites.harmful.sha256 must be text, got 5"),
        (b"harmful}", b"harmful, withheld: yes}", "p.yaml:8:55: suites.harmful.withheld must be true or false"),
        (b"harmful}", b"harmful, witheld: true}", "unknown key 'witheld': did you mean 'withheld'?"),
        (b"min_n: 300", b"min_n: 2.5", "p.yaml:13:12: rules.0.min_n must be a whole number"),
        (b"min_n: 300\n", b"", "p.yaml:10:5: rules.0.min_n is missing"),
        (b"version: 1", b"version: 2", "p.yaml:2:10: version should be 1"),
        (b"quarantine: true", b"quarantine: yes", "data.quarantine must be true or false"),
        (b"detectors: []", b"detectors: known_harm", "data.detectors must be a list"),
        (b"suite: harmful", b"suite: harmfull", "'harmfull' is not described under 'suites': did you mean 'harmful'?"),
        (b"kind: harmful}", b"kind: benign}", "attack_success_rate needs a harmful suite"),
        (b"alias: production", b"alias: v2", "MLflow reserves this alias"),
        (b"alias: production", b"alias: latest", "MLflow reserves this alias"),
        (b"model: guarded", b"model: a/b", "p.yaml:4:17: target.model"),
        (b"name: small", b"name: small\nname: other", "p.yaml:4:1: duplicate key 'name', first in line 3"),
        (b"max: 0.05", b"max: 0.05\n    max: 0.9", "p.yaml:13:5: duplicate key 'max', first in line 12"),
        (b"name: small", b"name: &x small", "p.yaml:3:7: an anchor (&x)"),
        (b"name: small", b"name: *x", "undefined alias"),
        (b"name: small", b"<<: {name: small}", "p.yaml:3:1: '<<' as a key"),
        (b"name: small", b"name: !!python/object:os.system small", "could be read in more than one way"),
        (b"name: small", b"1: small", "p.yaml:3:1: '1' as a key"),
        (b"name: small", b"\tname: small", "p.yaml:3:1"),
        (b"rules:", b"---\nrules:", "p.yaml:9:1: a second document"),
        (b"name: small", b"name: sm\xffall", "p.yaml:3:9: byte 0xff is not UTF-8"),
        (b"name: small", b"name: sm\x00all", "p.yaml:3:9: a character that YAML does not allow"),
        (b"rules:\n", b"rules: []\nother:\n", "p.yaml:9:8: rules must not be empty"),
        (b"rules:\n", b"rules: 7\nother:\n", "p.yaml:9:8: rules must be a list"),
    ],
)
def test_a_mistake_is_named_with_its_place(old: bytes, new: bytes, said: str) -> None:
    assert old in SMALL
    assert said in refusal(SMALL.replace(old, new, 1))


@pytest.mark.parametrize(
    "data", [b"", b"\n# only a comment\n", b"---\n", b"null\n", b"- a\n- b\n", b"just text", b"[" * 5000]
)
def test_what_is_no_mapping_is_refused(data: bytes) -> None:
    assert refusal(data).startswith("p.yaml:")


def test_a_policy_without_rules_is_refused() -> None:
    assert "rules is missing" in refusal(SMALL[: SMALL.index(b"rules:")])


def test_every_mistake_is_told_at_once_in_the_order_of_the_file() -> None:
    broken = SMALL.replace(b"max: 0.05", b"max: 7").replace(b"name: small", b"nane: small").replace(b"30}", b"0}")
    places = [line.split(": ")[0] for line in refusal(broken).splitlines() if line.startswith("p.yaml")]
    assert places == ["p.yaml:1:1", "p.yaml:3:1", "p.yaml:5:24", "p.yaml:12:10"]


def test_a_file_above_one_megabyte_is_refused_unparsed(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_bytes(SMALL + b"#" * 1_000_000)
    with pytest.raises(InvalidInput, match="at most 1000000 bytes"):
        load_policy(file)


def test_an_alias_bomb_is_refused() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "an anchor" in refusal(b"l0: &l0 [a]\n" + levels.encode())


def _survives(data: bytes) -> None:
    """Anything but InvalidInput escapes and fails the test."""
    complaint = ""
    try:
        load(data)
    except InvalidInput as error:
        complaint = error.got
    assert complaint == "" or complaint.startswith("p.yaml:")


@settings(max_examples=150)
@given(st.binary(max_size=80))
def test_garbage_is_a_policy_or_an_invalid_input(data: bytes) -> None:
    _survives(data)


@settings(max_examples=150)
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?\n\t 01.~<=\\\u2028\ufeff"), max_size=60))
def test_yaml_punctuation_is_a_policy_or_an_invalid_input(text: str) -> None:
    _survives(text.encode())


@settings(max_examples=80)
@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_policy_is_a_policy_or_an_invalid_input(at: int, inserted: bytes, removed: int) -> None:
    _survives(SMALL[:at] + inserted + SMALL[at + removed :])
