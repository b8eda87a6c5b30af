"""The written trust file: every mistake at once, with line and column; nothing that two could read differently."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trust_files import CAST, MODEL, NOW, POLICY, ids, key, public, trust

from guardrail.errors import InvalidInput
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.trust.trust_file import Least, LeastRate, Trust
from guardrail.evidence.trust.trust_yaml import PolicyUse, read_trust

TEXT = """\
kind: TrustFile
version: 3
expires: 2026-06-01
root:
  threshold: 2
  keys: [ana, ben, cem]
keys:
  ana: {person: Ana Ruiz, file: ana.pub}
  ben: {person: Ben Otieno, file: ben.pub}
  cem: {person: Cem Aksoy, file: cem.pub}
  train: {person: training pipeline, file: train.pub}
  evaluate: {person: evaluation job, file: evaluate.pub}
  server: {person: registry server, file: server.pub}
roles:
  data: [train]
  train: [train]
  evaluate: [evaluate]
  decide: [server]
  server: [server]
  approve: [ana, ben]
models:
  - name: guarded
    aliases:
      - alias: production
        policy: strict
        approvals: 1
"""


def pin(use: PolicyUse) -> str:
    if use.policy != "strict":
        raise InvalidInput(f"no policy {use.policy!r}", expected="strict")
    assert use.model.startswith(MODEL)
    assert use.alias == "production"
    return POLICY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*CAST, "stranger"):
        (tmp_path / f"{name}.pub").write_text(key_pairs.public_pem(key(name).public_key))
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[[str | bytes], Trust]:
    def reading(text: str | bytes) -> Trust:
        path = folder / "trust.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_trust(path, issued=NOW, pin=pin)

    return reading


def test_names_of_keys_become_key_ids_and_policies_become_digests(read: Callable[[str], Trust]) -> None:
    assert read(TEXT) == trust(issued=NOW, expires=read(TEXT).expires)
    assert read(TEXT).expires.isoformat() == "2026-06-01T00:00:00+00:00"
    assert read(TEXT).keys_of("evaluate") == tuple(public("evaluate"))
    flagged = read(TEXT + "one_person_may_train_evaluate_and_approve: true\n")
    assert flagged.one_person_may_train_evaluate_and_approve


CHANGES = {
    "evaluator and trainer": ("evaluate: [evaluate]", "evaluate: [train]", "17:13: 'training pipeline' trains, and"),
    "another spelling": ("person: evaluation job", "person: Training Pipeline", "12:22: 'Training Pipeline' and"),
    "zero width": ("person: evaluation job", 'person: "evaluation\\u200bjob"', "12:22: the person "),
    "the same key": ("file: evaluate.pub", "file: train.pub", "12:13: the same key as 'train' (training pipeline)"),
    "unknown key": ("decide: [server]", "decide: [servr]", "18:12: key 'servr' is not described under 'keys': did you"),
    "unknown root": ("keys: [ana, ben, cem]", "keys: [ana, ben, eve]", "6:20: key 'eve'"),
    "threshold": ("threshold: 2", "threshold: 4", "5:14: asks for 4 persons, the root has 3"),
    "no threshold": ("threshold: 2", "threshold: 0", "5:14: root.threshold"),
    "no key file": ("file: cem.pub", "file: gone.pub", "10:34: cannot read the public key"),
    "approvals": ("approvals: 1", "approvals: 3", "26:20: asks for 3 approvals, 2 may approve"),
    "no policy": ("policy: strict", "policy: lax", "25:17: no policy 'lax'"),
    "no aliases": (
        "    aliases:\n      - alias: production\n        policy: strict\n        approvals: 1\n",
        "    aliases: []\n",
        "23:14: models.0.aliases must not be empty",
    ),
    "reserved alias": ("alias: production", "alias: latest", "24:16: models.0.aliases.0.alias MLflow reserves"),
    "a name with a dot": ("name: guarded", "name: guarded.", "22:11: the model's name 'guarded.'"),
    "expiry": ("2026-06-01", "2026-02-30", "3:10: '2026-02-30' is no day"),
    "expired": ("2026-06-01", "2026-02-01", "3:10: it expires at"),
    "text for a number": ("version: 3", 'version: "3"', "2:10: version must be a whole number"),
    "unknown key of the file": ("kind: TrustFile", "kind: TrustFile\nmodel: x", "2:1: unknown key 'model'"),
    "unknown key inside": ("approvals: 1", "aprovals: 1", "26:9: unknown key 'aprovals': did you mean 'approvals'?"),
    "another kind": ("kind: TrustFile", "kind: PromotionPolicy", "1:7: kind"),
    "a duplicate": ("version: 3", "version: 3\nversion: 4", "3:1: duplicate key 'version', first in line 2"),
    "a duplicate role": ("  evaluate: [evaluate]", "  train: [ana]\n  evaluate: [evaluate]", "17:3: duplicate key"),
    "an anchor": ("keys: [ana, ben, cem]", "keys: &a [ana, ben, cem]", "6:"),
    "an alias": ("keys: [ana, ben, cem]", "keys: *a", "6:"),
    "a tag": ("threshold: 2", "threshold: !!python/object/apply:os.system [ls]", "5:"),
    "a merge key": ("root:\n", "root:\n  <<: {threshold: 1}\n", "5:3"),
    "a yes": ("approvals: 1", "approvals: yes", "26:"),
    "a second document": ("models:", "---\nmodels:", "21:1: a second document"),
    "a base by name": ("name: guarded", "name: guarded\n    bases: [testbed]", "23:13: models.0.bases.0"),
    "no base at all": ("name: guarded", "name: guarded\n    bases: []", "23:12: models.0.bases must not be empty"),
    "a base twice": ("name: guarded", f"name: guarded\n    bases: [{POLICY}, {POLICY}]", "23:12: models.0.bases names"),
    "a least of nothing": ("version: 3", "version: 3\nleast: {}", "3:8: least asks for nothing"),
    "a least in text": ("version: 3", "version: 3\nleast: {confidence: high}", "3:21: least.confidence must be"),
    "a word that nobody knows": ("version: 3", "version: 3\nleast: {utility: {max_dropp: 0.1}}", "3:19: unknown key"),
    "a least of a model": ("name: guarded", "name: guarded\n    least: {days: 7}", "23:13: unknown key 'days'"),
    "an octal": ("version: 3", "version: 0o3", "2:10"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_mistake_is_named_with_line_and_column(read: Callable[[str], Trust], name: str) -> None:
    before, after, said = CHANGES[name]
    assert TEXT.count(before) == 1
    with pytest.raises(InvalidInput) as caught:
        read(TEXT.replace(before, after))
    assert f"trust.yaml:{said}" in caught.value.got


def test_what_is_asked_of_policies_is_read_signed_and_told_to_whoever_pins(folder: Path) -> None:
    uses = []

    def noting(use: PolicyUse) -> str:
        uses.append(use)
        return pin(use)

    asking = f"name: guarded\n    bases: [{POLICY}]\n    least: {{max_valid_days: 7}}"
    path = folder / "trust.yaml"
    path.write_text(TEXT.replace("name: guarded", asking) + "least: {attack_success_rate: {max: 0.1}}\n")
    made = read_trust(path, issued=NOW, pin=noting)
    asked = (Least(attack_success_rate=LeastRate(max=0.1)), Least(max_valid_days=7))
    assert made.leasts(made.models[0]) == asked
    assert uses == [PolicyUse("strict", "guarded", "production", (POLICY,), asked)]
    assert made.models[0].bases == (POLICY,)


def test_every_mistake_is_named_at_once(read: Callable[[str], Trust]) -> None:
    text = TEXT.replace("[server]", "[servr]").replace("policy: strict", "policy: lax").replace("cem.pub", "gone.pub")
    with pytest.raises(InvalidInput) as caught:
        read(text)
    assert [line.split(":")[1] for line in caught.value.got.splitlines()] == ["10", "18", "19", "25"]


HOSTILE = {
    "nothing": b"",
    "no mapping": b"- a",
    "not UTF-8": b"kind: \xff",
    "a null": b"kind: \x00",
    "deep": b"[" * 100_000,
    "too long": b"# " + b"x" * 1_000_000,
    "laughs": b"a: &a [x, x]\nb: [*a, *a]",
    "a bare word": b"TrustFile",
    "unclosed": b"kind: [",
    "tabs": b"kind:\n\t- x",
    "a huge number": b"version: 1" + b"0" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused(read: Callable[[bytes], Trust], name: str) -> None:
    with pytest.raises(InvalidInput, match=r"trust\.yaml:\d+:\d+: "):
        read(HOSTILE[name])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_never_crashes(read: Callable[[str], Trust], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT)))
    piece = data.draw(
        st.sampled_from(["", "\n", ":", "]", "{", "- ", "\u200b", "&x ", "*x", "!!int ", "'", "\u2028", "\x00"])
    )
    cut = data.draw(st.integers(0, 30))
    with suppress(InvalidInput):
        assert read(TEXT[:at] + piece + TEXT[at + cut :]).root.threshold >= 1


def test_a_file_that_cannot_be_read_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_trust(tmp_path / "absent.yaml", issued=NOW, pin=pin)
    assert caught.value.next_step == "guardrail trust init"


def test_the_cast_of_these_tests_is_the_one_that_is_signed_elsewhere() -> None:
    assert trust().root.keys == ids("ana", "ben", "cem")
