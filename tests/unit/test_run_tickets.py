"""The ticket of a run: asked for once over HTTP, kept, never taken for another target or after its time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from signed_runs import held_ticket, signed, started
from ticket_gate import Gate, gate
from trust_files import ALIAS, MODEL, NOW

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical
from guardrail.evidence.tickets import LIFETIME
from guardrail.pipeline.promotion import decide_run
from guardrail.pipeline.run import Run
from guardrail.pipeline.tickets import TICKET, current, held, take


@pytest.fixture
def opened() -> Iterator[Gate]:
    with gate(NOW) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run without a ticket."""
    return started(tmp_path / "run", attempt=0)


def test_a_ticket_for_the_policys_target_is_kept_in_canonical_form(run: Run, opened: Gate) -> None:
    ticket = take(run, opened.uri, NOW)
    assert (ticket.model, ticket.alias, ticket.attempt) == (MODEL, ALIAS, 1)
    assert (run.path / TICKET).read_bytes() == canonical(ticket)
    assert held(run) == current(run, NOW) == ticket == opened.issued[0]


def test_a_run_that_goes_on_takes_no_other_attempt(run: Run, opened: Gate) -> None:
    first = take(run, opened.uri, NOW)
    assert take(Run(run.path), opened.uri, NOW + LIFETIME / 2) == first
    assert len(opened.issued) == 1


def test_a_run_that_has_a_ticket_asks_nobody(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert take(run, "http://127.0.0.1:9", NOW) == held_ticket(run)


def test_a_run_without_a_ticket_has_none(run: Run) -> None:
    assert held(run) is None
    assert current(run, NOW) is None


def test_an_expired_ticket_is_an_error_that_names_a_new_run_directory(run: Run, opened: Gate) -> None:
    take(run, opened.uri, NOW)
    for action in (partial(take, run, opened.uri, NOW + LIFETIME), partial(current, run, NOW + LIFETIME)):
        with pytest.raises(EvidenceInvalid, match=r"(?s)expired at .*new run directory"):
            action()
    assert held(run) == opened.issued[0]
    assert len(opened.issued) == 1


def test_a_ticket_for_another_target_is_neither_kept_nor_used(run: Run, opened: Gate) -> None:
    opened.model = "another"
    with pytest.raises(EvidenceInvalid, match=f"is for another@{ALIAS}"):
        take(run, opened.uri, NOW)
    assert not (run.path / TICKET).exists()
    (run.path / TICKET).write_bytes(canonical(opened.issued[0]))
    for action in (partial(take, run, opened.uri, NOW), partial(current, run, NOW), partial(held, run)):
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
        take(run, "http://127.0.0.1:9", NOW)
    with pytest.raises(InvalidInput, match="no server"):
        take(run, "sqlite:///mlflow.db", NOW)
    with pytest.raises(InvalidInput, match="gated server"):
        take(run, f"{opened.uri}/elsewhere", NOW)
    assert not (run.path / TICKET).exists()


def test_the_decision_is_made_at_the_confidence_of_the_tickets_attempt(tmp_path: Path) -> None:
    decisions = [decide_run(signed(started(tmp_path / str(n), attempt=n)), NOW) for n in (0, 1, 3)]
    assert [decision.attempt for decision in decisions] == [0, 1, 3]
    assert ["0.95 " in d.findings[-1].reason for d in decisions] == [True, False, False]
    assert "0.975 " in decisions[1].findings[-1].reason
    assert "0.9938 " in decisions[2].findings[-1].reason


def test_a_decision_without_the_ticket_is_not_taken_for_one_with_it(tmp_path: Path, opened: Gate) -> None:
    run = signed(started(tmp_path / "run", attempt=0))
    before = decide_run(run, NOW)
    take(run, opened.uri, NOW)
    after = decide_run(run, NOW)
    assert (before.attempt, after.attempt) == (0, 1)
    assert before.inputs != after.inputs
