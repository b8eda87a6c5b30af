"""``guardrail verify --trust``: down to each stage, each person and the server's ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_cast import trust_file
from gate_world import Said, World, say, world

from guardrail.evidence.ledger.ledger_file import envelopes

pytestmark = pytest.mark.slow


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    """A server with one version, for which nobody had to agree."""
    with world(tmp_path) as made:
        made.admit()
        yield made


def verify(made: World, spec: str = "guarded@production", *more: object) -> Said:
    return say("verify", spec, *made.by_trust, *made.server, *more)


def test_what_every_stage_signed_and_the_ledger_admitted_verifies(one: World) -> None:
    said = verify(one)
    assert said.code == 0, said.out
    assert "ok  stages    data by trainer; train by trainer; evaluate by evaluator" in said.out
    assert "ok  approvals 0 of 0" in said.out
    assert "ok  alias     version 1, by the promotion in entry 4" in said.out
    assert "DANGER" not in said.out
    record = json.loads(verify(one, "guarded/1", "--output", "json").stdout)
    assert record["stages"][2] == {"stage": "evaluate", "persons": ["evaluator"]}
    assert record["ledger"]["number"] == 4
    assert record["one_person_may_train_evaluate_and_approve"] is False


def test_a_key_verifies_as_before_and_exactly_one_way_must_be_chosen(one: World) -> None:
    decider = ("--key", one.who["decider"].public_file)
    assert say("verify", "guarded@production", *decider, *one.server).code == 0
    assert say("verify", "guarded@production", *one.server).code == 2
    assert verify(one, "guarded@production", *decider).code == 2
    assert say("verify", "guarded@production", "--trust", one.folder / "trust.json", *one.server).code == 2
    assert say("verify", "guarded@production", "--root", one.who["root"].public_file, *decider, *one.server).code == 2
    assert say("verify", "guarded@production", *decider, *one.server, "--head", one.gate.ledger.head_path).code == 2


def test_a_trust_file_by_another_root_is_refused(one: World) -> None:
    foreign = ("--trust", one.folder / "trust.json", "--root", one.who["stranger"].public_file)
    assert say("verify", "guarded@production", *foreign, *one.server).code == 11


def test_all_roots_that_are_given_must_have_signed_unless_a_threshold_says_otherwise(one: World) -> None:
    root, second = one.who["root"].public_file, one.who["stranger"].public_file
    server = ("guarded@production", "--trust", one.folder / "trust.json", *one.server)
    refused = say("verify", *server, "--root", root, "--root", second)
    assert (refused.code, "signed by 1 of the root keys that you gave" in refused.out) == (11, True), refused.out
    assert say("verify", *server, "--root", root, "--root", second, "--root-threshold", 1).code == 0
    assert say("verify", *server, "--root", root, "--root", root).code == 0


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "evidence/train.dsse.json", "evidence/decision.dsse.json"]
)
def test_a_changed_byte_is_refused(one: World, name: str) -> None:
    path = one.stored("1") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify(one).code == 11


@pytest.mark.parametrize(("stage", "signer"), [("train", "stranger"), ("evaluate", "trainer"), ("data", "evaluator")])
def test_a_stage_signed_by_somebody_who_may_not_is_refused(tmp_path: Path, stage: str, signer: str) -> None:
    with world(tmp_path) as made:
        made.admit(signers={stage: signer})
        said = verify(made)
        assert said.code == 11
        assert f"the {stage} statement is signed by" in said.out


def test_a_decision_by_somebody_who_may_not_decide_is_refused(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.admit(signers={"decide": "stranger"})
        assert verify(made).code == 11


def test_expired_evidence_is_refused(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.admit(ago=timedelta(days=31))
        said = verify(made)
        assert said.code == 11
        assert "expired" in said.out


def test_a_revoked_adapter_is_refused(one: World) -> None:
    ordered = say(
        "registry", "revoke", "--yes", "guarded@production", *one.key("ana"), "--reason", "it leaks", *one.server
    )
    assert ordered.code == 0, ordered.out
    for spec in ("guarded@production", "guarded/1"):
        said = verify(one, spec)
        assert said.code == 11
        assert "was revoked" in said.out
    assert "it leaks" in verify(one, "guarded/1").out


def test_a_decision_as_another_attempt_than_the_ledger_counts_is_refused(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.made(0)
        made.admit(seed=1)
        assert "ok  attempt   number 2" in verify(made).out
        made.admit(seed=2, attempt=3)
        said = verify(made)
        assert said.code == 11
        assert "expected: attempt 1" in said.out


def test_evidence_that_the_ledger_did_not_admit_is_refused(one: World) -> None:
    _empty_ledger(one)
    one.gate.note("promotion", model="guarded", alias="production", version="1")
    said = verify(one)
    assert said.code == 11
    assert "did not admit" in said.out


def test_an_alias_that_was_moved_beside_the_ledger_is_refused(one: World) -> None:
    one.admit(seed=1)
    one.gate.aliases["production"] = "1"
    said = verify(one)
    assert said.code == 11
    assert "expected: version 2" in said.out
    assert verify(one, "guarded/1").code == 0


def test_the_same_evidence_promoted_again_under_another_number_verifies_under_both(one: World) -> None:
    """Its version was lost with a database and made again."""
    (evidence,) = one.gate.candidates
    one.gate.promote(evidence)
    for spec in ("guarded@production", "guarded/1", "guarded/2"):
        assert verify(one, spec).code == 0, spec


def test_a_number_under_which_other_evidence_was_promoted_is_refused(one: World) -> None:
    one.admit(seed=1)
    one.gate.versions["1"], one.gate.versions["2"] = (
        one.gate.versions[other] | {"version": number} for number, other in (("1", "2"), ("2", "1"))
    )
    for spec in ("guarded@production", "guarded/1", "guarded/2"):
        said = verify(one, spec)
        assert (said.code, "doctor" in said.out) == (11, True), said.out


def test_a_ledger_that_was_cut_off_is_refused_where_the_exported_head_is_given(one: World) -> None:
    exported, ledger = one.folder / "exported", one.gate.ledger
    before = ledger.head_path.read_bytes()
    one.gate.note("revocation", subject=next(iter(one.gate.candidates.values())).bundle.decision.manifest)
    exported.write_bytes(ledger.head_path.read_bytes())
    ledger.path.write_bytes(b"".join(line + b"\n" for line in list(envelopes(ledger.path))[:-1]))
    assert verify(one).code == 11  # the server itself says that there was one more
    ledger.head_path.write_bytes(before)
    assert "whether its end is missing is not known" in verify(one).out
    said = verify(one, "guarded@production", "--head", exported)
    assert said.code == 11
    assert "the end was cut off" in said.out


def test_a_ledger_signed_by_somebody_else_is_refused(one: World) -> None:
    one.who.persons["server"] = one.who["stranger"]
    one.gate.note("trust", version="2")
    assert verify(one).code == 11


def test_approvals_are_those_that_people_signed(tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        made.admit()
        for name in ("ana", "ben"):
            done = say(
                "approve",
                "guarded@production",
                *made.by_trust,
                *made.key(name),
                "--yes",
                "--reason",
                "so",
                *made.server,
            )
            assert done.code == 0, done.out
        said = verify(made)
        assert said.code == 0, said.out
        assert "ok  approvals 2 of 2: ana, ben" in said.out
        for kept in (made.gate.root / "statements").iterdir():
            kept.write_bytes(kept.read_bytes().replace(b"a", b"b", 1))
        assert verify(made).code == 11


def test_too_few_approvals_are_four(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.gate.promote(made.admit())
        assert verify(made).code == 4


@pytest.mark.parametrize("model", ["another", "GUARDED"])
@pytest.mark.parametrize("signer", ["decider", "stranger"])
def test_a_model_that_the_trust_file_does_not_guard_is_invalid_input(tmp_path: Path, model: str, signer: str) -> None:
    with world(tmp_path) as made:
        made.admit(signers={"decide": signer})
        _empty_ledger(made)
        _guard(made, name=model)
        for spec in ("guarded@production", "guarded/1"):
            said = verify(made, spec)
            assert said.code == 2
            assert "expected: a guarded model and a protected alias, spelled as there" in said.out
            assert "verify with --decider-key" in said.out


def test_an_alias_that_the_trust_file_does_not_protect_is_invalid_input(one: World) -> None:
    one.gate.aliases["staging"] = "1"
    assert verify(one, "guarded@staging").code == 2
    _empty_ledger(one)
    protected = one.who.trust(datetime.now(UTC)).models[0].aliases[0]
    _guard(one, aliases=(protected.model_copy(update={"alias": "staging"}),))
    for spec in ("guarded@production", "guarded/1"):
        said = verify(one, spec)
        assert said.code == 2
        assert "'guarded@production' is not guarded" in said.out


def _empty_ledger(made: World) -> None:
    made.gate.ledger.path.unlink()
    made.gate.ledger.head_path.unlink()


def _guard(made: World, **changes: object) -> None:
    """Another trust file, which guards a model of other words."""
    trust = made.who.trust(datetime.now(UTC))
    other = trust.models[0].model_copy(update=changes)
    trust_file(made.folder, made.who, trust.model_copy(update={"models": (other,)}))


def test_a_store_without_a_gate_cannot_be_verified_by_a_trust_file(one: World) -> None:
    said = say("verify", "guarded@production", *one.by_trust, "--tracking-uri", "sqlite:///mlflow.db")
    assert said.code == 2
    assert "gated server" in said.out


def test_one_person_who_may_do_it_all_is_told_in_a_line_that_frightens(tmp_path: Path) -> None:
    with world(tmp_path, alone=True) as made:
        made.admit()
        said = verify(made)
        assert said.code == 0, said.out
        assert "DANGER      ONE PERSON MAY TRAIN, EVALUATE AND APPROVE" in said.out


def test_a_version_under_another_number_than_the_ledger_promoted_it_is_refused(one: World) -> None:
    """Who answers for the server can give old files as a new version; the evidence names no number."""
    one.admit(seed=2)
    assert "ok  version   2, as promoted" in verify(one, "guarded/2").out
    one.gate.versions["2"] = {**one.gate.versions["1"], "version": "2"}
    said = verify(one, "guarded/2")
    assert said.code == 11
    assert "as version 2" in said.out
    one.gate.versions["9"] = {**one.gate.versions["1"], "version": "9"}
    assert verify(one, "guarded/9").code == 11


def test_what_a_server_says_cannot_add_a_line_to_what_was_checked(one: World) -> None:
    one.gate.versions["1"] |= {"version": "1\nok  alias     moved by the ledger\x1b[2J"}
    said = say("verify", "guarded@production", "--key", one.who["decider"].public_file, *one.server)
    assert "\nok  alias" not in said.out
    assert "\x1b" not in said.out
