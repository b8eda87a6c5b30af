"""What the stages of a run sign: a chain that a server accepts, kept as long as it is true, refused when it is not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from signed_runs import SIGNERS, base, held_ticket, pinned, record, records, signed, started
from stage_chains import check_chain
from trust_files import ALIAS, MODEL, NOW, key

from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.bundle import stage_file
from guardrail.evidence.chain.bound_records import require_bound
from guardrail.evidence.chain.stage_chain import MADE, ChainTarget
from guardrail.evidence.statements.stage_statement import Stage
from guardrail.pipeline.gate import gate_attempt
from guardrail.pipeline.gate.signing import prepare, require_base_of_data, sign_stage, signed_stages
from guardrail.pipeline.promotion import bundle, decide_run
from guardrail.pipeline.run import Run

LATER = NOW + timedelta(days=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a ticket whose stages have all signed."""
    return signed(started(tmp_path / "run"))


def envelopes(run: Run) -> dict[Stage, bytes]:
    found = {stage: run.path / stage_file(stage) for stage in MADE}
    return {stage: path.read_bytes() for stage, path in found.items() if path.exists()}


def again(run: Run, stage: Stage) -> None:
    sign_stage(run, stage, key(SIGNERS[stage]), LATER)


def test_the_statements_of_a_run_are_a_chain_about_its_records(run: Run) -> None:
    ticket = held_ticket(run)
    chain = check_chain(envelopes(run).values(), pinned(), ChainTarget(MODEL, ALIAS, ticket.nonce), now=NOW)
    require_bound(chain, decide_run(run, NOW), *records(run))
    assert {chain.data.predicate.ledger, chain.train.predicate.ledger} == {ticket.ledger}
    assert chain.evaluate.predicate.ledger == gate_attempt.require(run, ticket).ledger
    assert chain.expires == NOW + timedelta(days=30)


def test_an_adapter_record_that_names_another_base_than_its_statement_is_refused(run: Run) -> None:
    chain = check_chain(envelopes(run).values(), pinned(), ChainTarget(MODEL, ALIAS, held_ticket(run).nonce), now=NOW)
    data, adapter, evaluation = records(run)
    renamed = adapter.model_copy(update={"base": adapter.base.model_copy(update={"name": "attacker/base"})})
    with pytest.raises(EvidenceInvalid, match="bind another base"):
        require_bound(chain, decide_run(run, NOW), data, renamed, evaluation)


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"name": "other"}, {"template": "fallback"}])
def test_a_base_that_is_loaded_otherwise_than_the_data_statement_binds_is_refused(
    tmp_path: Path, change: dict[str, str]
) -> None:
    run = signed(started(tmp_path / "run"), "data")
    require_base_of_data(run, base())
    with pytest.raises(EvidenceInvalid, match=rf"the base is loaded as .*: another {next(iter(change))}"):
        require_base_of_data(run, base().model_copy(update=change))


def test_without_a_ticket_or_a_data_statement_any_base_may_be_trained(tmp_path: Path) -> None:
    other = base().model_copy(update={"dtype": "float16"})
    run = signed(started(tmp_path / "run"), "data")
    (run.path / stage_file("data")).rename(tmp_path / "kept")
    require_base_of_data(run, other)
    without = signed(started(tmp_path / "without", attempt=0), "data")
    (tmp_path / "kept").rename(without.path / stage_file("data"))
    require_base_of_data(without, other)


def test_the_statements_travel_with_the_evidence(run: Run) -> None:
    sealed = bundle(run, decide_run(run, NOW), key("server"), NOW)
    assert sealed.stages == envelopes(run)
    assert set(map(stage_file, MADE)) <= set(sealed.records())


def test_without_a_ticket_nothing_is_signed_and_no_statement_is_asked_for(tmp_path: Path) -> None:
    run = signed(started(tmp_path / "run", attempt=0))
    assert envelopes(run) == {}
    decision = decide_run(run, NOW)
    assert decision.attempt == 0
    assert bundle(run, decision, key("server"), NOW).stages == {}


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    record(run, "data")
    sign_stage(run, "data", None, NOW)
    assert envelopes(run) == {}


def test_signing_again_changes_nothing_even_with_a_key_that_signs_differently_each_time(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    record(run, "data")
    ecdsa = key("train", "ecdsa")
    sign_stage(run, "data", ecdsa, NOW)
    first = envelopes(run)
    sign_stage(run, "data", ecdsa, LATER)
    assert envelopes(run) == first


@pytest.mark.parametrize("stage", MADE)
def test_a_changed_record_gives_a_new_statement_and_removes_those_that_followed(run: Run, stage: Stage) -> None:
    before = envelopes(run)
    record(run, stage, "changed")
    again(run, stage)
    after = envelopes(run)
    assert list(after) == list(MADE[: MADE.index(stage) + 1])
    assert [name for name in after if after[name] != before[name]] == [stage]


def test_a_statement_by_another_key_is_signed_anew(run: Run) -> None:
    before = envelopes(run)
    sign_stage(run, "train", key("ana"), NOW)
    assert list(envelopes(run)) == ["data", "train"]
    assert envelopes(run)["train"] != before["train"]


@pytest.mark.parametrize("stage", MADE)
def test_a_stage_that_ran_again_and_did_not_sign_is_named_with_its_command(run: Run, stage: Stage) -> None:
    record(run, stage, "changed")
    with pytest.raises(EvidenceMissing, match=rf"(?s)the {stage} statement .* names another record.*guardrail"):
        signed_stages(run, held_ticket(run), NOW)


@pytest.mark.parametrize(
    ("stage", "command"),
    [("data", "guardrail data validate DATA"), ("train", "guardrail train"), ("evaluate", "guardrail evaluate")],
)
def test_promoting_without_a_statement_names_the_stage_and_the_command(run: Run, stage: Stage, command: str) -> None:
    (run.path / stage_file(stage)).unlink()
    with pytest.raises(EvidenceMissing) as caught:
        bundle(run, decide_run(run, NOW), key("server"), NOW)
    assert f"the {stage} statement of {run.path} is missing" in str(caught.value)
    assert f"{command} --run {run.path} --sign-key KEY" in str(caught.value)


@pytest.mark.parametrize("stage", MADE)
def test_a_statement_of_another_attempt_is_refused(tmp_path: Path, run: Run, stage: Stage) -> None:
    other = signed(started(tmp_path / "other", attempt=2))
    (run.path / stage_file(stage)).write_bytes((other.path / stage_file(stage)).read_bytes())
    with pytest.raises(EvidenceMissing, match=r"names another record|binds another nonce"):
        signed_stages(run, held_ticket(run), NOW)


@pytest.mark.parametrize("position", [0, 40, -2])
def test_a_statement_that_cannot_be_read_is_refused(run: Run, position: int) -> None:
    data = bytearray(envelopes(run)["train"])
    data[position] ^= 0x80
    (run.path / stage_file("train")).write_bytes(bytes(data))
    with pytest.raises(EvidenceMissing, match=r"the train statement .* cannot be read"):
        signed_stages(run, held_ticket(run), NOW)


def test_statements_that_have_expired_are_not_promoted(run: Run) -> None:
    with pytest.raises(EvidenceMissing, match=r"the data statement .* expired at"):
        signed_stages(run, held_ticket(run), NOW + timedelta(days=31))


def test_a_key_without_a_ticket_is_refused_before_the_stage_works(tmp_path: Path) -> None:
    run = started(tmp_path / "run", attempt=0)
    prepare(run, "data", signs=False, now=NOW)
    with pytest.raises(InvalidInput, match=r"has no ticket(?s:.*)--gate"):
        prepare(run, "data", signs=True, now=NOW)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_stage_whose_predecessor_did_not_sign_is_refused_before_it_works(run: Run, stage: Stage) -> None:
    prepare(run, stage, signs=True, now=NOW)
    record(run, "data", "changed")
    prepare(run, stage, signs=False, now=NOW)
    with pytest.raises(EvidenceMissing, match=r"the data statement .* names another record"):
        prepare(run, stage, signs=True, now=NOW)
    with pytest.raises(EvidenceMissing, match=r"the data statement .* names another record"):
        again(run, stage)


def test_nothing_is_begun_or_signed_with_a_ticket_that_has_expired(run: Run) -> None:
    late = held_ticket(run).expires
    for signs in (True, False):
        with pytest.raises(EvidenceInvalid, match="expired at"):
            prepare(run, "evaluate", signs=signs, now=late)
    with pytest.raises(EvidenceInvalid, match="new run directory"):
        sign_stage(run, "data", key("train"), late)
