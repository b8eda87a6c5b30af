"""The ticket of a run: asked for once over HTTP, kept, never taken for another target or after its time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from signed_runs import held_ticket, record, signed, started, tell
from ticket_gate import Gate, gate
from trust_files import ALIAS, MODEL, NOW, ids, key

from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import stage_file
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import signers
from guardrail.evidence.statements.ticket_requests import HOLDS, TICKET_REQUEST_TYPE, read_request, signed_request
from guardrail.evidence.statements.tickets import LIFETIME
from guardrail.pipeline.gate.gate_attempt import ATTEMPT, known, require
from guardrail.pipeline.gate.run_ticket import REQUEST, TICKET, Asking, current, held, take
from guardrail.pipeline.gate.signing import bind
from guardrail.pipeline.promotion import decide_run
from guardrail.pipeline.run import Run

ASKING = Asking(key("train"))


@pytest.fixture
def opened() -> Iterator[Gate]:
    with gate(NOW) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run without a ticket."""
    return started(tmp_path / "run", attempt=0)


def test_a_ticket_for_the_policys_target_is_kept_in_canonical_form(run: Run, opened: Gate) -> None:
    ticket = take(run, opened.uri, ASKING, NOW)
    assert (ticket.model, ticket.alias) == (MODEL, ALIAS)
    assert (run.path / TICKET).read_bytes() == canonical(ticket)
    assert held(run) == current(run, NOW) == ticket == opened.issued[0]


def test_a_run_that_goes_on_takes_no_other_attempt(run: Run, opened: Gate) -> None:
    first = take(run, opened.uri, ASKING, NOW)
    assert take(Run(run.path), opened.uri, ASKING, NOW + LIFETIME / 2) == first
    assert len(opened.issued) == 1


def test_a_run_that_has_a_ticket_asks_nobody(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert take(run, "http://127.0.0.1:9", ASKING, NOW) == held_ticket(run)


def test_a_run_without_a_ticket_has_none(run: Run) -> None:
    assert held(run) is None
    assert current(run, NOW) is None


def test_an_expired_ticket_is_an_error_that_names_a_new_run_directory(run: Run, opened: Gate) -> None:
    take(run, opened.uri, ASKING, NOW)
    for action in (partial(take, run, opened.uri, ASKING, NOW + LIFETIME), partial(current, run, NOW + LIFETIME)):
        with pytest.raises(EvidenceInvalid, match=r"(?s)expired at .*new run directory"):
            action()
    assert held(run) == opened.issued[0]
    assert len(opened.issued) == 1


def test_a_ticket_for_another_target_is_neither_kept_nor_used(run: Run, opened: Gate) -> None:
    opened.model = "another"
    with pytest.raises(EvidenceInvalid, match=f"is for another@{ALIAS}"):
        take(run, opened.uri, ASKING, NOW)
    assert not (run.path / TICKET).exists()
    (run.path / TICKET).write_bytes(canonical(opened.issued[0]))
    for action in (partial(take, run, opened.uri, ASKING, NOW), partial(current, run, NOW), partial(held, run)):
        with pytest.raises(EvidenceInvalid, match=f"is for another@{ALIAS}"):
            action()


@pytest.mark.parametrize("change", [b"\n", b" ", b"}"])
def test_a_ticket_that_was_changed_is_refused(tmp_path: Path, change: bytes) -> None:
    run = started(tmp_path / "run")
    with (run.path / TICKET).open("ab") as stream:
        stream.write(change)
    with pytest.raises(EvidenceInvalid, match=TICKET):
        held(run)


def test_a_gate_that_does_not_answer_or_is_none_leaves_no_ticket(run: Run, opened: Gate) -> None:
    with pytest.raises(ServiceUnavailable):
        take(run, "http://127.0.0.1:9", ASKING, NOW)
    with pytest.raises(InvalidInput, match="no server"):
        take(run, "sqlite:///mlflow.db", ASKING, NOW)
    with pytest.raises(InvalidInput, match="gated server"):
        take(run, f"{opened.uri}/elsewhere", ASKING, NOW)
    assert not (run.path / TICKET).exists()


def test_the_decision_is_made_at_the_confidence_of_the_attempt(tmp_path: Path) -> None:
    decisions = [decide_run(signed(started(tmp_path / str(n), attempt=n)), NOW) for n in (0, 1, 3)]
    assert [decision.attempt for decision in decisions] == [0, 1, 3]
    assert ["0.95 " in d.findings[-1].reason for d in decisions] == [True, False, False]
    assert "0.975 " in decisions[1].findings[-1].reason
    assert "0.9938 " in decisions[2].findings[-1].reason


def test_the_gate_is_told_of_the_adapter_once_and_counts_it(tmp_path: Path, opened: Gate) -> None:
    run = signed(started(tmp_path / "run", attempt=0))
    ticket = take(run, opened.uri, ASKING, NOW)
    signed(run, "data", "train")
    (run.path / ATTEMPT).unlink()
    for _ in range(2):
        bind(run, opened.uri, NOW)
    trained = (run.path / stage_file("train")).read_bytes()
    assert opened.statements == [trained]
    found = require(run, ticket)
    assert (found.number, found.ledger) == (1, sha256(trained))
    bind(run, None, NOW)


def test_without_a_ticket_nobody_is_told(run: Run, opened: Gate) -> None:
    bind(run, opened.uri, NOW)
    assert opened.statements == []


def test_an_adapter_that_the_gate_was_not_told_of_is_neither_measured_nor_decided_on(
    tmp_path: Path, opened: Gate
) -> None:
    from guardrail.pipeline.evaluation import evaluate_adapter

    run = signed(started(tmp_path / "run"))
    (run.path / ATTEMPT).unlink()
    for action in (partial(bind, run, None, NOW), partial(evaluate_adapter, run), partial(decide_run, run, NOW)):
        with pytest.raises(EvidenceMissing, match=r"not told of the adapter(?s:.*)guardrail evaluate .*--gate URI"):
            action()
    assert opened.statements == []


def test_what_was_said_of_another_adapter_or_ticket_does_not_count(tmp_path: Path) -> None:
    run = signed(started(tmp_path / "run"))
    ticket = held_ticket(run)
    found = require(run, ticket)
    for change in ({"manifest": "0" * 64}, {"nonce": "0" * 64}):
        (run.path / ATTEMPT).write_bytes(canonical(found.model_copy(update=change)))
        assert known(run, ticket) is None
    (run.path / ATTEMPT).write_bytes(b"{}")
    with pytest.raises(EvidenceInvalid, match="cannot be read"):
        known(run, ticket)


def test_the_gate_is_told_of_no_adapter_whose_stages_have_not_signed(tmp_path: Path, opened: Gate) -> None:
    run = signed(started(tmp_path / "run"))
    (run.path / ATTEMPT).unlink()
    record(run, "train", "changed")
    with pytest.raises(EvidenceMissing, match=r"the train statement .* names another record"):
        bind(run, opened.uri, NOW)
    assert opened.statements == []


def test_a_decision_without_the_ticket_is_not_taken_for_one_with_it(tmp_path: Path, opened: Gate) -> None:
    run = signed(started(tmp_path / "run", attempt=0))
    before = decide_run(run, NOW)
    take(run, opened.uri, ASKING, NOW)
    tell(run)
    after = decide_run(run, NOW)
    assert (before.attempt, after.attempt) == (0, 1)
    assert before.inputs != after.inputs


def test_a_ticket_is_asked_for_by_a_key_and_names_who_may_bind_it(run: Run, opened: Gate) -> None:
    take(run, opened.uri, Asking(key("ana"), ids("train", "ben")), NOW)
    request = (run.path / REQUEST).read_bytes()
    assert opened.requests == [request]
    asked = read_request(request)
    assert (asked.model, asked.alias, asked.bind) == (MODEL, ALIAS, tuple(sorted(ids("train", "ben"))))
    assert signers(request, payload_type=TICKET_REQUEST_TYPE) == ids("ana")


def test_without_a_key_no_ticket_is_asked_for(run: Run, opened: Gate) -> None:
    with pytest.raises(InvalidInput, match=r"to a key only(?s:.*)--sign-key"):
        take(run, opened.uri, Asking(None), NOW)
    assert opened.requests == []


def test_who_asks_again_after_an_interruption_gets_the_same_ticket(run: Run, opened: Gate) -> None:
    first = take(run, opened.uri, ASKING, NOW)
    (run.path / TICKET).unlink()
    assert take(run, opened.uri, ASKING, NOW + HOLDS / 2) == first
    assert len(opened.issued) == 1


@pytest.mark.parametrize("change", ["time", "key", "bind", "bytes", "another request"])
def test_a_request_that_does_not_ask_for_the_same_is_made_anew(run: Run, opened: Gate, change: str) -> None:
    first = take(run, opened.uri, ASKING, NOW)
    (run.path / TICKET).unlink()
    asking, now, path = ASKING, NOW, run.path / REQUEST
    if change == "time":
        now += HOLDS
    elif change == "key":
        asking = Asking(key("ana"))
    elif change == "bind":
        asking = Asking(key("train"), ids("ana"))
    elif change == "bytes":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        path.write_bytes(signed_request("another", ALIAS, key("train"), now=NOW))
    assert take(run, opened.uri, asking, now) != first
    assert len(opened.requests) == 2
