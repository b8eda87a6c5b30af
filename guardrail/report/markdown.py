"""A decision as Markdown, short enough for the step summary of a CI job.

It shows what the records say and computes nothing. Names in records come from outside, so everything is escaped:
no cell can open a table row, a link or HTML, call a person or hide a character (``printable.py``). The page for
people is ``report/html.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from guardrail.policy.bases import NOT_PINNED, pins_base
from guardrail.policy.rules import Evidence
from guardrail.printable import markdown_text, one_line
from guardrail.records import Decision, Measurement, Rate, Verdict
from guardrail.report import attempts

HEADLINES = {
    Verdict.PASSED: "✅ PASSED: the policy holds",
    Verdict.FAILED: "❌ FAILED: denied",
    Verdict.INCONCLUSIVE: "⚠️ INCONCLUSIVE: blocked, the evidence does not suffice",
    Verdict.AWAITING_APPROVAL: "⏳ AWAITING APPROVAL: a person still has to sign",
}
MARKS = {Verdict.PASSED: "✅", Verdict.FAILED: "❌", Verdict.INCONCLUSIVE: "⚠️", Verdict.AWAITING_APPROVAL: "⏳"}


def render(decision: Decision, evidence: Evidence | None = None, errors: Sequence[str] = ()) -> str:
    """The decision, and the measurements where ``evidence`` holds an evaluation; ends with a newline.

    ``errors`` say how many answers are missing, and why.
    """
    lines = [
        f"## {HEADLINES[decision.verdict]}",
        "",
        f"{markdown_text(decision.base.name)} fine-tuned by **{markdown_text(decision.method)}**, for"
        f" **{markdown_text(decision.model)}**, alias **{markdown_text(decision.alias)}**, under the policy"
        f" **{markdown_text(decision.policy_name)}**. Decided {decision.decided_at:%Y-%m-%d %H:%M} UTC, valid until"
        f" {decision.valid_until:%Y-%m-%d %H:%M} UTC.",
        "",
        *([] if pins_base(decision) else [f"⚠️ **{markdown_text(NOT_PINNED)}**", ""]),
        *([markdown_text(attempts.attempt_sentence(decision)), ""] if decision.attempt else []),
        *_findings(decision),
        *(["", *(f"- {markdown_text(error)}" for error in errors)] if errors else []),
    ]
    if evidence is not None and evidence.evaluation is not None:
        lines += ["", *_measurements(evidence.evaluation.measurements)]
    return "\n".join([*lines, "", *_digests(decision)]) + "\n"


def _findings(decision: Decision) -> list[str]:
    rows = ["| | Rule | Measured | Objective | Found |", "|---|---|---|---|---|"]
    for finding in decision.findings:
        cells = (finding.rule, finding.sli, finding.objective, finding.reason)
        rows.append(f"| {MARKS[finding.verdict]} {finding.verdict} | " + " | ".join(map(markdown_text, cells)) + " |")
    return rows


def _measurements(measurements: tuple[Measurement, ...]) -> list[str]:
    rows = ["| Measurement | Attack | n | Adapter (bounds) | Base (bounds) | Judge |", "|---|---|--:|--:|--:|---|"]
    for one in measurements:
        sli, suite, attack = map(markdown_text, (one.sli.value, one.suite, one.attack))
        rows.append(
            f"| {sli} on {suite} | {attack or '-'} | {one.candidate.n}"
            f" | {_rate(one.candidate)} | {_rate(one.base)} | {markdown_text(one.judge.name)} |"
        )
    return rows


def _rate(rate: Rate) -> str:
    return f"{rate.value:.1%} ({rate.lower:.1%} to {rate.upper:.1%})"


def _digests(decision: Decision) -> list[str]:
    pairs = (
        ("policy", decision.policy),
        ("data report", decision.data),
        ("adapter record", decision.adapter),
        ("adapter files", decision.manifest),
        ("base model", decision.base.digest),
        ("evaluation report", decision.evaluation),
    )
    body = [f"- {name}: `{one_line(value)}`" for name, value in pairs]
    return ["<details><summary>SHA-256 of everything the decision rests on</summary>", "", *body, "", "</details>"]
