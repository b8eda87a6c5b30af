"""Which bases a policy lets through: by digest, name and commit; another one is a violation, in whatever spelling."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from policy_evidence import BASE, chain, merged_adapter, merging

from guardrail.cli import cli
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import digest, sha256
from guardrail.model.files import base_digest
from guardrail.policy.bases import RULE, block, pins_base, require_pinned_base
from guardrail.policy.decide import decide
from guardrail.policy.load import LoadedPolicy, builtin_names, find_policy, load_policy_bytes
from guardrail.policy.rules import Evidence
from guardrail.records import Decision, ModelRef, Verdict
from guardrail.testbed import WEIGHTS

DEFAULT = find_policy("default")
PIN = DEFAULT.policy.bases[0]
OTHER = sha256(b"another chat template")


def on(base: ModelRef, policy: LoadedPolicy = DEFAULT, *, evaluated: ModelRef | None = None) -> Evidence:
    """A whole chain on ``base``: every record names it, and what follows from it."""
    made = chain(policy.digest)
    assert made.data
    assert made.adapter
    assert made.evaluation
    data = made.data.model_copy(update={"base": base.digest})
    adapter = made.adapter.model_copy(update={"base": base, "data": digest(data)})
    changes = {"base": evaluated or base, "adapter": digest(adapter)}
    evaluation = made.evaluation.model_copy(update=changes)
    return Evidence(data=data, adapter=adapter, evaluation=evaluation)


def decided(evidence: Evidence, policy: LoadedPolicy = DEFAULT) -> Decision:
    return decide(policy, evidence, inputs=sha256(b"in"), now=datetime(2026, 11, 1, tzinfo=UTC))


def pinning(*pins: str) -> LoadedPolicy:
    text = DEFAULT.bytes.decode()
    start, end = text.index("bases:"), text.index("data:\n")
    return load_policy_bytes((text[:start] + "\n".join(pins) + "\n" + text[end:]).encode(), "ours.yaml")


HUB = ModelRef(name="org/model", revision="a" * 40, digest=OTHER, architecture="X", dtype="float32", template="own")


def test_the_shipped_policies_pin_the_embedded_base_as_it_lies_there() -> None:
    for name in builtin_names():
        (pin,) = find_policy(name).policy.bases
        assert (pin.name, pin.revision, pin.sha256) == ("testbed", None, base_digest(WEIGHTS))


def test_a_pinned_base_is_a_finding_that_passed() -> None:
    decision = decided(chain(DEFAULT.digest))
    found = decision.findings[0]
    assert (found.rule, found.verdict) == (RULE, Verdict.PASSED)
    assert PIN.sha256 in found.objective
    assert pins_base(decision)


SPELLINGS = {
    "another digest, as another template gives": BASE.model_copy(update={"digest": OTHER}),
    "another name, the same files": BASE.model_copy(update={"name": "testbed2"}),
    "another case of the name": BASE.model_copy(update={"name": "Testbed"}),
    "an empty name": BASE.model_copy(update={"name": ""}),
    "a Hub's name": HUB,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_evidence_on_another_base_is_whole_and_violates_the_policy(name: str) -> None:
    decision = decided(on(SPELLINGS[name]))
    assert decision.verdict is Verdict.FAILED
    assert [one.rule for one in decision.findings if one.verdict is Verdict.FAILED] == [RULE]


def test_an_evaluation_under_another_name_of_the_base_is_no_pass_either() -> None:
    renamed = BASE.model_copy(update={"name": "elsewhere"})
    assert decided(on(BASE, evaluated=renamed)).verdict is Verdict.FAILED


def test_a_commit_that_is_pinned_must_be_the_one() -> None:
    policy = pinning(block(HUB.name, HUB.revision, HUB.digest))
    assert decided(on(HUB, policy), policy).verdict is Verdict.PASSED
    for other in ("b" * 40, None, "main"):
        assert decided(on(HUB.model_copy(update={"revision": other}), policy), policy).verdict is Verdict.FAILED


def test_without_a_commit_the_digest_alone_tells_the_files() -> None:
    policy = pinning(block(HUB.name, None, HUB.digest))
    assert decided(on(HUB, policy), policy).verdict is Verdict.PASSED


def test_any_of_several_pins_will_do() -> None:
    policy = pinning(
        "bases:", f"  - {{name: testbed, sha256: {PIN.sha256}}}", f"  - {{name: org/model, sha256: {OTHER}}}"
    )
    for base in (BASE, HUB):
        assert decided(on(base, policy), policy).verdict is Verdict.PASSED
    mixed = BASE.model_copy(update={"digest": OTHER})  # the name of one, the digest of the other
    assert decided(on(mixed, policy), policy).verdict is Verdict.FAILED


def test_a_policy_without_bases_decides_and_has_no_finding_on_the_base() -> None:
    policy = pinning()
    decision = decided(on(HUB, policy), policy)
    assert decision.verdict is Verdict.PASSED
    assert not pins_base(decision)


def test_a_merged_adapter_of_another_base_is_invalid() -> None:
    other = merged_adapter(DEFAULT.digest).model_copy(update={"base": OTHER})
    with pytest.raises(EvidenceInvalid, match="a merged adapter's base model"):
        decided(merging(chain(DEFAULT.digest), other))


@given(st.sampled_from(["digest", "name", "revision"]), st.text("0123456789abcdef", min_size=1, max_size=64))
def test_no_change_of_what_names_the_base_passes(field: str, text: str) -> None:
    policy = pinning(block(HUB.name, HUB.revision, HUB.digest))
    value = sha256(text.encode()) if field == "digest" else text
    changed = HUB.model_copy(update={field: value})
    if changed != HUB:
        assert decided(on(changed, policy), policy).verdict is Verdict.FAILED


def test_before_hours_of_work_the_message_holds_what_would_have_to_be_pinned() -> None:
    require_pinned_base(DEFAULT, BASE)
    require_pinned_base(pinning(), HUB)
    with pytest.raises(InvalidInput) as caught:
        require_pinned_base(DEFAULT, HUB)
    assert caught.value.exit_code == 2
    section = caught.value.next_step.partition("bases:")
    assert pinning(section[1] + section[2]).policy.bases[0].sha256 == HUB.digest


@pytest.mark.parametrize("name", ["m", 'a "quoted" name', "x: y", "{}", "# none", "- a", "org/model"])
def test_the_block_reads_back_as_it_was_whatever_the_name(name: str) -> None:
    (pin,) = pinning(block(name, "1e5", OTHER)).policy.bases
    assert (pin.name, pin.revision, pin.sha256) == (name, "1e5", OTHER)


MISTAKES = {
    "nothing filled in": ("{name: m, sha256: FILL-IN}", "guardrail policy base"),
    "no digest": ("{name: m}", "bases.0.sha256 is missing"),
    "an empty digest": ("{name: m, sha256: ''}", "guardrail policy base"),
    "capitals": ("{name: m, sha256: '" + "A" * 64 + "'}", "guardrail policy base"),
    "a prefix": (f"{{name: m, sha256: {OTHER[:12]}}}", "guardrail policy base"),
    "a line break": (f'{{name: m, sha256: "{OTHER}\\n"}}', "guardrail policy base"),
    "no name": (f"{{sha256: {OTHER}}}", "bases.0.name is missing"),
    "an unknown key": (f"{{name: m, sha256: {OTHER}, template: x}}", "unknown key 'template'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_pin_that_pins_nothing_is_refused_with_its_place(name: str) -> None:
    pin, said = MISTAKES[name]
    with pytest.raises(InvalidInput, match=r"ours\.yaml:\d+:\d+: ") as caught:
        pinning("bases:", f"  - {pin}")
    assert said in caught.value.message()


def test_an_empty_list_pins_nothing_and_is_refused() -> None:
    with pytest.raises(InvalidInput, match="bases must not be empty"):
        pinning("bases: []")


@pytest.mark.slow
def test_another_base_is_refused_before_the_data_is_looked_at(tmp_path: Path) -> None:
    base = Path(shutil.copytree(WEIGHTS, tmp_path / "testbed"))  # the pinned name
    (base / "chat_template.jinja").write_text("{{ messages[0].content }} Sure,")
    arguments = ["data", "validate", "testbed:sentiment", "--run", str(tmp_path / "run"), "--policy", "default"]
    done = CliRunner().invoke(cli, [*arguments, "--base", str(base)])
    assert isinstance(done.exception, InvalidInput)
    assert "does not allow the base testbed" in done.exception.got
    assert base_digest(base) in done.exception.next_step
    assert not (tmp_path / "run" / "data-report.json").exists()
