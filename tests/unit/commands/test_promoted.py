"""What ``guardrail promote`` says of a decision: what became of it, who must do what now, and where to read on."""

from __future__ import annotations

from pathlib import Path

from decisions import passing

from guardrail.commands._output import waiting_lines
from guardrail.errors import AwaitingApproval
from guardrail.registry.http.address import run_page
from guardrail.registry.record.promote import CandidateWaitsError, Noted

WAITS = AwaitingApproval("0 of 2 approvals are there", expected="2 more", next_step="guardrail approve m@a")


def test_who_promoted_is_told_who_must_approve_and_what_to_read() -> None:
    decision, _ = passing()
    page = run_page("http://user:secret@mlflow.example.org/", "1", "abc")
    told = waiting_lines(decision, CandidateWaitsError(WAITS, "guardrail", Noted("abc", page)), Path("run"))
    assert told == [
        f"waits       for persons to approve it: guardrail approve {decision.model}@{decision.alias}",
        f"adapter     {decision.manifest}",
        "mlflow run  abc in experiment 'guardrail'",
        "            http://mlflow.example.org/#/experiments/1/runs/abc",
        "report      run/report.html",
    ]


def test_a_store_without_pages_names_the_run_alone() -> None:
    assert run_page("sqlite:///mlflow.db", "1", "abc") == ""
    assert run_page("http://mlflow.example.org", "", "abc") == ""
    decision, _ = passing()
    told = waiting_lines(decision, CandidateWaitsError(WAITS, "guardrail", Noted("abc")), Path("run"))
    assert [line for line in told if "http" in line] == []


def test_that_it_waits_is_said_as_the_server_said_it() -> None:
    assert CandidateWaitsError(WAITS, "guardrail", Noted("abc")).message() == WAITS.message()
    assert CandidateWaitsError.exit_code == AwaitingApproval.exit_code
