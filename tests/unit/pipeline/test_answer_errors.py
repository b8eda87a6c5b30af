"""Missing answers are told with their causes and counts, and the next step is for the cause, not for the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from decisions import failing, passing
from policy_evidence import chain

from guardrail.commands._output import raise_unless_passed
from guardrail.errors import EvidenceMissing, PolicyDenied
from guardrail.evidence.digest import sha256
from guardrail.pipeline.answer_errors import AnswerError, frequent
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import find_policy
from guardrail.records import Decision, Finding, Verdict
from guardrail.report import html, markdown

FULL = "the prompt fills {} of the context's 128 tokens: no room for an answer of 48"


def _run(place: Path, errors: list[str], *, recorded: bool = True) -> Run:
    """A run whose evaluation met these errors, and 5 answers."""
    policy = find_policy("default")
    evaluation = chain(policy.digest).evaluation
    assert evaluation is not None
    rows = [{"reply": {"text": "", "error": error}} for error in [*errors, *[""] * 5]]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    first, *others = evaluation.measurements
    rate = first.candidate.model_copy(update={"hits": 0, "errors": len(errors)})
    changed = (first.model_copy(update={"candidate": rate}), *others)
    digest = sha256(data) if recorded else sha256(b"other")
    run = Run(place / "run")
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed"))
    run.write("evaluation-report", evaluation.model_copy(update={"measurements": changed, "responses": digest}))
    (run.path / "responses.jsonl").write_bytes(data)
    return run


def test_errors_that_differ_in_numbers_only_are_counted_together_most_frequent_first(tmp_path: Path) -> None:
    errors = ["CUDA out of memory: 3 GiB", *(FULL.format(90 + n) for n in range(6)), "IndexError: 7", "IndexError: 9"]
    found = frequent(_run(tmp_path, errors))
    assert [(one.count, one.text) for one in found] == [
        (6, FULL.format(90)),
        (2, "IndexError: 7"),
        (1, "CUDA out of memory: 3 GiB"),
    ]
    advice = [one.next_step for one in found]
    assert "longer context" in advice[0]
    assert "responses.jsonl" in advice[1]
    assert "more memory" in advice[2]


@pytest.mark.parametrize("spoil", ["other", "gone", "torn"])
def test_responses_that_are_not_those_of_the_report_explain_nothing_and_break_nothing(
    tmp_path: Path, spoil: str
) -> None:
    run = _run(tmp_path, [FULL.format(99)], recorded=spoil != "other")
    if spoil == "gone":
        (run.path / "responses.jsonl").unlink()
    if spoil == "torn":
        (run.path / "responses.jsonl").write_bytes(b'{"reply": [')
    assert frequent(run) == ()


def _inconclusive() -> Decision:
    open_ = Finding(rule="utility", sli="", objective="", verdict=Verdict.INCONCLUSIVE, reason="206 errors")
    return passing()[0].model_copy(update={"verdict": Verdict.INCONCLUSIVE, "findings": (open_,)})


def test_the_next_step_is_against_the_errors_and_not_against_the_training() -> None:
    error = AnswerError(206, FULL.format(120))
    with pytest.raises(EvidenceMissing) as blocked:
        raise_unless_passed(_inconclusive(), (error,))
    assert "206 answers are errors: the prompt fills" in blocked.value.next_step
    assert "longer context" in blocked.value.next_step
    assert "measure more" not in blocked.value.next_step
    with pytest.raises(PolicyDenied) as denied:
        raise_unless_passed(failing()[0], (error,))
    assert denied.value.next_step.startswith("206 answers are errors")


@pytest.mark.parametrize(
    ("rule", "advice", "no"),
    [
        ("training_method", "a method that the policy allows", "cleaner data"),
        ("flagged_samples", "data/quarantine.jsonl", "another method"),
        ("utility", "another method or cleaner data", "quarantine"),
    ],
)
def test_the_next_step_of_a_denial_is_for_the_rule_that_was_broken(rule: str, advice: str, no: str) -> None:
    finding = Finding(rule=rule, sli="", objective="", verdict=Verdict.FAILED, reason="")
    with pytest.raises(PolicyDenied) as denied:
        raise_unless_passed(failing()[0].model_copy(update={"findings": (finding,)}))
    assert advice in denied.value.next_step
    assert no not in denied.value.next_step


def test_reports_tell_why_answers_are_missing_and_escape_it() -> None:
    decision, evidence = failing()
    errors = (str(AnswerError(206, "<b>| the prompt fills")),)
    page, summary = html.render(decision, evidence, errors), markdown.render(decision, evidence, errors)
    assert "206 answers are errors: &lt;b&gt;| the prompt fills" in page
    assert "206 answers are errors" in summary
    assert "<b>" not in summary


def test_no_report_says_that_what_passed_was_promoted_or_may_be() -> None:
    decision, evidence = passing()
    for text in (html.render(decision, evidence), markdown.render(decision, evidence)):
        assert "may be promoted" not in text
        assert "policy holds" in text
