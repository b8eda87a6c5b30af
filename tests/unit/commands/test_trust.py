"""``guardrail trust``: from the example to a file that two people signed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from trust_files import NOW, key, public, trust

from guardrail.commands.trust import EXAMPLE, command
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import sha256
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.trust.trust_file import GuardedModel, Least, LeastRate, ProtectedAlias, sign_trust
from guardrail.policy.load import find_policy

NAMES = ("root-ana", "root-ben", "root-cem", "training", "evaluation", "release", "server")


def invoke(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, with the keys that it names."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        key_pairs.init(tmp_path, name)
    assert invoke("init").exit_code == 0
    return tmp_path


def said(result: Result) -> str:
    assert isinstance(result.exception, InvalidInput | EvidenceInvalid), result.output
    return result.exception.message()


def signed(*roots: str) -> None:
    for index, root in enumerate(roots):
        done = invoke("sign", "trust.json" if index else "trust.yaml", "--key", f"{root}.key")
        assert done.exit_code == 0, done.output


CHECK = (
    "check",
    "trust.json",
    "--root",
    "root-ana.pub",
    "--root",
    "root-ben.pub",
    "--root",
    "root-cem.pub",
    "--threshold",
    "2",
)


def test_the_example_is_signed_by_one_after_the_other_and_then_holds(folder: Path) -> None:
    signed("root-ana")
    assert "signed by 1 of the root keys that you gave" in said(invoke(*CHECK))
    signed("root-ana", "root-ben")
    done = invoke(*CHECK)
    assert done.exit_code == 0, done.output
    assert "signed by   " in done.output
    assert f"guarded-adapter@production: policy {find_policy('default').digest}, 1 approvals" in done.output
    assert "DANGER" not in done.output
    printed = json.loads(invoke(*CHECK, "--output", "json").output)
    assert printed == json.loads(invoke("show", "trust.json", "--output", "json").output)


def test_show_says_that_it_checks_nothing(folder: Path) -> None:
    signed("server")
    assert "NOT CHECKED" in invoke("show", "trust.json").output
    assert "which was not given" in said(invoke(*CHECK))


def test_the_single_person_mode_is_shown_as_what_it_is(folder: Path) -> None:
    text = EXAMPLE.read_text().replace("approve: false", "approve: true").replace("evaluate: [eval", "evaluate: [train")
    Path("trust.yaml").write_text(text.replace("[trainuation]", "[training]"))
    signed("root-ana", "root-ben")
    for done in (invoke(*CHECK), invoke("show", "trust.json")):
        assert "DANGER      ONE PERSON MAY TRAIN, EVALUATE AND APPROVE" in done.output


def test_a_new_root_follows_from_the_one_before(folder: Path) -> None:
    signed("root-ana", "root-ben")
    Path("trust.json").rename("old.json")
    text = EXAMPLE.read_text().replace("version: 1 ", "version: 2 ")
    text = text.replace("keys: [root-ana, root-ben, root-cem]", "keys: [root-ben, root-cem]\n  previous: [root-ana]")
    Path("trust.yaml").write_text(text)
    follows = (*CHECK, "--previous", "old.json")
    signed("root-cem", "root-ben")
    assert invoke(*follows).exit_code == 0
    signed("root-ana", "root-cem")
    assert "persons of its own root" in said(invoke(*follows))
    signed("root-ana", "root-cem", "root-ben")
    assert invoke(*follows).exit_code == 0
    assert "has version 2" in said(invoke(*CHECK, "--at-least", "3"))


def test_a_policy_for_another_model_is_not_pinned(folder: Path) -> None:
    Path("trust.yaml").write_text(EXAMPLE.read_text().replace("name: guarded-adapter", "name: another"))
    assert "default is a policy for guarded-adapter@production" in said(invoke("sign", "trust.yaml"))


def test_a_policy_beside_the_file_is_pinned_by_its_bytes(folder: Path) -> None:
    data = find_policy("default").bytes + b"# ours\n"
    Path("ours.yaml").write_bytes(data)
    Path("trust.yaml").write_text(EXAMPLE.read_text().replace("policy: default ", "policy: ours.yaml "))
    signed("root-ana")
    assert find_policy("ours.yaml").digest in invoke("show", "trust.json").output


def test_what_is_there_is_not_overwritten_by_the_example(folder: Path) -> None:
    assert "never overwritten" in said(invoke("init"))


def test_a_huge_or_absent_file_is_refused(folder: Path) -> None:
    with Path("trust.json").open("wb") as stream:
        stream.truncate(100_000_000)
    assert "the envelope has 4194305 bytes" in said(invoke(*CHECK))
    Path("trust.json").unlink()
    assert "cannot read the signed file" in said(invoke(*CHECK))


def test_a_terminal_is_not_commanded_by_names_that_nobody_checked(folder: Path) -> None:
    from trust_files import CAST, entries
    from trust_files import signed as sealed

    Path("trust.json").write_bytes(sealed(trust(keys=entries(**{**CAST, "ana": "Ana\x1b[2J"}))))
    shown = invoke("show", "trust.json").output
    assert "\x1b" not in shown
    assert "Ana\\x1b[2J" in shown


def bare() -> bytes:
    """The default policy without its bases."""
    text = find_policy("default").bytes.decode()
    return (text[: text.index("bases:")] + text[text.index("data:\n") :]).encode()


def pinning(policy: bytes, *changes: tuple[str, str]) -> None:
    """The example with a policy beside it in place of the default one."""
    Path("ours.yaml").write_bytes(policy)
    text = EXAMPLE.read_text().replace("policy: default ", "policy: ours.yaml ")
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    Path("trust.yaml").write_text(text)


def test_a_model_whose_base_nobody_pins_is_not_signed(folder: Path) -> None:
    pinning(bare())
    refused = said(invoke("sign", "trust.yaml", "--key", "root-ana.key"))
    assert "trust.yaml:" in refused
    assert "neither it nor the trust file pins a base model" in refused
    base = find_policy("default").policy.bases[0].sha256
    pinning(bare(), ("    # bases: [7dd196cb…] ", f"    bases: [{base}] "))
    signed("root-ana")
    assert f"bases       guarded-adapter: {base}" in invoke("show", "trust.json").output


def test_a_policy_that_promises_less_than_the_file_asks_is_not_signed(folder: Path) -> None:
    pinning(find_policy("default").bytes.replace(b"    max: 0.05\n", b"    max: 1.0\n"))
    assert "no rule attack_success_rate limits it to 0.1 or less" in said(invoke("sign", "trust.yaml"))


def test_a_policy_is_told_beforehand_whether_anything_will_be_admitted_under_it(folder: Path) -> None:
    signed("root-ana", "root-ben")
    assert invoke(*CHECK, "--policy", "default").exit_code == 0
    assert "does not pin the policy" in said(invoke(*CHECK, "--policy", "strict"))
    assert "does not pin the policy" in said(invoke(*CHECK, "--policy", "unfiltered"))


def test_a_signed_file_that_pins_too_weak_a_policy_is_found(folder: Path) -> None:
    Path("ours.yaml").write_bytes(bare())
    alias = ProtectedAlias(alias="production", policy=sha256(bare()), approvals=1)
    model = GuardedModel(name="guarded-adapter", aliases=(alias,))
    asking = trust(models=(model,), least=Least(over_refusal_rate=LeastRate(max=0.01)), expires=NOW.replace(year=2100))
    Path("trust.json").write_bytes(sign_trust(asking, key("ana"), key("ben")))
    for name in ("ana", "ben"):
        Path(f"{name}.pub").write_text(key_pairs.public_pem(public(name)[0]))
    checked = ("check", "trust.json", "--root", "ana.pub", "--root", "ben.pub", "--threshold", "2")
    assert invoke(*checked).exit_code == 0
    refused = said(invoke(*checked, "--policy", "ours.yaml"))
    assert "pins a base model" in refused
    assert "no rule over_refusal_rate limits it to 0.01 or less" in refused
