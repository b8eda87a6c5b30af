"""The checks over a directory with its evidence, without any registry: no byte may change, no lie is believed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from adapter_tricks import FILES, TRICKS, Trick
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_evidence import BASE
from registry_bundles import NOW, adapter_directory, bundle_of, resealed, sealed, unsealed

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import Bundle, seal, write
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.records import Compared, Decision, ModelRef, Verdict
from guardrail.registry.verify.evidence_checks import admissible, examine


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return key_pairs.load_private(key_pairs.init(tmp_path_factory.mktemp("keys")).private)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, key: PrivateKey) -> Path:
    """A bundle as it is stored; tests copy it before they change it."""
    return laid_out(sealed(tmp_path_factory.mktemp("made") / "adapter", key), tmp_path_factory.mktemp("stored"))


def laid_out(bundle: Bundle, directory: Path) -> Path:
    write(bundle, directory)
    return directory


def check(directory: Path, key: PrivateKey) -> None:
    examine(directory, [key_pairs.public_of(key)])


def test_a_stored_bundle_verifies_and_says_what_was_checked(stored: Path, key: PrivateKey) -> None:
    examined = examine(stored, [key_pairs.public_of(key)])
    assert [found.name for found in examined.checks] == [
        "envelope",
        "adapter",
        "evidence",
        "policy",
        "records",
        "decision",
        "configuration",
    ]
    assert all(found.why for found in examined.checks)
    assert admissible(examined.decision, NOW).why


@settings(max_examples=150)
@given(data=st.data())
def test_changing_any_byte_of_any_file_is_refused(stored: Path, key: PrivateKey, data: st.DataObject) -> None:
    files = sorted(path.relative_to(stored) for path in stored.rglob("*") if path.is_file())
    name = data.draw(st.sampled_from(files))
    content = bytearray((stored / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(stored, Path(folder) / "copy"))
        (copy / name).write_bytes(content)
        with pytest.raises(EvidenceInvalid):
            check(copy, key)


def remove(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def add(name: str, text: str = "x") -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter file is gone": (remove("adapter_config.json"), "missing: adapter_config.json"),
    "a file was added": (add("chat_template.jinja"), "not signed: chat_template.jinja"),
    "a hidden file was added": (add(".hidden"), "not signed: .hidden"),
    "evidence was added": (add("evidence/note.txt"), "not signed: note.txt"),
    "the policy is gone": (remove("evidence/policy.yaml"), "missing: policy.yaml"),
    "the envelope is gone": (remove("evidence/decision.dsse.json"), "there is no evidence/decision.dsse.json"),
    "all evidence is gone": (lambda directory: shutil.rmtree(directory / "evidence"), "there is no evidence/"),
    "the weights are empty": (add("adapter_model.safetensors", ""), "changed: adapter_model.safetensors"),
    "two files changed places": (
        lambda d: (d / "adapter_config.json").write_bytes((d / "adapter_model.safetensors").read_bytes()),
        "changed: adapter_config.json",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_refused_and_named(stored: Path, key: PrivateKey, tmp_path: Path, name: str) -> None:
    how, message = TAMPERING[name]
    copy = Path(shutil.copytree(stored, tmp_path / "copy"))
    how(copy)
    with pytest.raises(EvidenceInvalid) as caught:
        check(copy, key)
    assert message in str(caught.value)


def test_another_key_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(EvidenceInvalid, match="was not given"):
        check(stored, key_pairs.load_private(key_pairs.init(tmp_path).private))


def first_compared(decision: Decision, change: Callable[[tuple[Compared, ...]], tuple[Compared, ...]]) -> Decision:
    """With other comparisons in the first finding that has any."""
    at = next(number for number, found in enumerate(decision.findings) if found.compared)
    found = decision.findings[at].model_copy(update={"compared": change(decision.findings[at].compared)})
    return decision.model_copy(update={"findings": (*decision.findings[:at], found, *decision.findings[at + 1 :])})


def compared_with(decision: Decision, **values: float) -> Decision:
    """With other numbers in the first comparison."""
    return first_compared(decision, lambda compared: (compared[0].model_copy(update=values), *compared[1:]))


def test_a_decision_from_before_comparisons_were_recorded_verifies(tmp_path: Path, key: PrivateKey) -> None:
    bundle = resealed(unsealed(tmp_path / "a"), key, lambda d: first_compared(d, lambda _: ()))
    (tmp_path / "out").mkdir()
    check(laid_out(bundle, tmp_path / "out"), key)


LIES: dict[str, Callable[[Decision], Decision]] = {
    "a later expiry": lambda d: d.model_copy(update={"valid_until": d.valid_until + timedelta(days=900)}),
    "another model": lambda d: d.model_copy(update={"model": "another"}),
    "another alias": lambda d: d.model_copy(update={"alias": "staging"}),
    "another method": lambda d: d.model_copy(update={"method": "replay"}),
    "fewer findings": lambda d: d.model_copy(update={"findings": d.findings[:1]}),
    "another policy": lambda d: d.model_copy(update={"policy": "0" * 64}),
    "another manifest": lambda d: d.model_copy(update={"manifest": "0" * 64}),
    "another evaluation": lambda d: d.model_copy(update={"evaluation": "0" * 64}),
    "another base": lambda d: d.model_copy(update={"base": d.base.model_copy(update={"digest": "0" * 64})}),
    "a better bound": lambda d: compared_with(d, upper=0.0),
    "more items": lambda d: compared_with(d, n=10**6),
    "another limit": lambda d: compared_with(d, limit=0.9),
    "a comparison more": lambda d: first_compared(d, lambda compared: (*compared, compared[0])),
    "a denial": lambda d: d.model_copy(update={"verdict": Verdict.FAILED}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_signed_decision_that_does_not_follow_from_the_evidence_is_refused(
    tmp_path: Path, key: PrivateKey, name: str
) -> None:
    bundle = resealed(unsealed(tmp_path / "a"), key, LIES[name])
    (tmp_path / "out").mkdir()
    with pytest.raises(EvidenceInvalid):
        check(laid_out(bundle, tmp_path / "out"), key)


def test_a_denial_signed_as_passed_is_refused(tmp_path: Path, key: PrivateKey) -> None:
    denied = unsealed(tmp_path / "a", safe=False)
    assert denied.decision.verdict is Verdict.FAILED
    bundle = resealed(denied, key, lambda d: d.model_copy(update={"verdict": Verdict.PASSED}))
    (tmp_path / "out").mkdir()
    with pytest.raises(EvidenceInvalid, match="give FAILED, the signed decision says PASSED"):
        check(laid_out(bundle, tmp_path / "out"), key)


def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path, key: PrivateKey) -> None:
    bundle = unsealed(tmp_path / "a")
    (tmp_path / "out").mkdir()
    with pytest.raises(EvidenceInvalid):
        check(laid_out(seal(Bundle(**{**bundle.__dict__, "policy": b"{"}), key), tmp_path / "out"), key)


PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
EVIL = "attacker/backdoored-base"
HUB = BASE.model_copy(update={"name": "org/model", "revision": "0" * 40})
PATH = BASE.model_copy(update={"name": "a model of mine"})
Config = dict[str, object]
NAMED: dict[str, tuple[ModelRef, Config]] = {
    "nothing": (HUB, {}),
    "null": (HUB, {"base_model_name_or_path": None, "revision": None}),
    "the Hub's, with its commit": (HUB, {"base_model_name_or_path": HUB.name, "revision": HUB.revision}),
    "a local one": (PATH, {"base_model_name_or_path": PATH.name, "revision": None}),
    "a local one, without the word revision": (PATH, {"base_model_name_or_path": PATH.name}),
}
MISNAMED: dict[str, tuple[ModelRef, Config]] = {
    "another base": (BASE, {"base_model_name_or_path": EVIL}),
    "another revision": (HUB, {"base_model_name_or_path": HUB.name, "revision": "main"}),
    "a base at whatever its revision is now": (HUB, {"base_model_name_or_path": HUB.name}),
    "a revision of a local base": (BASE, {"base_model_name_or_path": BASE.name, "revision": "main"}),
    "a revision alone": (BASE, {"revision": "main"}),
    "an empty name": (BASE, {"base_model_name_or_path": ""}),
}


def on(base: ModelRef, text: str, directory: Path, key: PrivateKey) -> Path:
    """Sealed evidence of an adapter on ``base`` with this configuration, as it is stored."""
    adapter_dir = adapter_directory(directory / "adapter")
    (adapter_dir / "adapter_config.json").write_text(text)
    (directory / "stored").mkdir()
    return laid_out(seal(bundle_of(adapter_dir, base=base), key), directory / "stored")


@pytest.mark.parametrize("case", NAMED)
def test_an_adapter_may_name_the_base_that_was_evaluated_or_none(tmp_path: Path, key: PrivateKey, case: str) -> None:
    base, config = NAMED[case]
    check(on(base, json.dumps({**PLAIN, **config}), tmp_path, key), key)


@pytest.mark.parametrize("case", MISNAMED)
def test_an_adapter_that_names_another_base_is_refused_however_it_was_signed(
    tmp_path: Path, key: PrivateKey, case: str
) -> None:
    base, config = MISNAMED[case]
    stored = on(base, json.dumps({**PLAIN, **config}), tmp_path, key)
    with pytest.raises(EvidenceInvalid, match="names the base") as caught:
        check(stored, key)
    assert f"{base.name!a}, revision {base.revision!a}" in caught.value.expected
    assert "train again" in caught.value.next_step


@pytest.mark.parametrize("named", ["auto_mapping", "megatron_config"])
def test_an_adapter_that_names_modules_to_import_is_refused(tmp_path: Path, key: PrivateKey, named: str) -> None:
    stored = on(BASE, json.dumps({**PLAIN, named: {"parent_library": "evil"}}), tmp_path, key)
    with pytest.raises(EvidenceInvalid, match=f"says {named}="):
        check(stored, key)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "null",
        '{"peft_type": "XLORA"}',
        '{"peft_type": ["LORA"]}',
        "[" * 100_000,
        f'{{"peft_type": "LORA", "base_model_name_or_path": "{EVIL}", "base_model_name_or_path": "testbed"}}',
        json.dumps({**PLAIN, "base_model_name_or_path": [BASE.name]}),
    ],
)
def test_a_configuration_that_is_no_plain_lora_is_refused(tmp_path: Path, key: PrivateKey, text: str) -> None:
    with pytest.raises(EvidenceInvalid, match=r"adapter_config\.json"):
        check(on(BASE, text, tmp_path, key), key)


@pytest.mark.parametrize("trick", [*TRICKS, *FILES], ids=lambda trick: trick.name)
def test_an_adapter_that_is_not_what_it_was_measured_as_is_refused_however_it_was_signed(
    tmp_path: Path, key: PrivateKey, trick: Trick
) -> None:
    adapter_dir = adapter_directory(tmp_path / "adapter")
    trick.change(adapter_dir)
    (tmp_path / "stored").mkdir()
    stored = laid_out(seal(bundle_of(adapter_dir), key), tmp_path / "stored")
    with pytest.raises(EvidenceInvalid, match=f"(?s){trick.answer}"):
        check(stored, key)


def test_only_a_passed_decision_within_its_validity_admits(tmp_path: Path) -> None:
    decision = unsealed(tmp_path / "a").decision
    assert admissible(decision, decision.valid_until - timedelta(microseconds=1)).why
    for now in (decision.valid_until, decision.decided_at - timedelta(days=1), datetime(2100, 1, 1, tzinfo=UTC)):
        with pytest.raises(EvidenceInvalid):
            admissible(decision, now)
    for verdict in set(Verdict) - {Verdict.PASSED}:
        with pytest.raises(EvidenceInvalid, match=verdict.value):
            admissible(decision.model_copy(update={"verdict": verdict}), NOW)
