"""The renderings of a decision: complete, harmless whatever the records say, and computing nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from decisions import POLICY, failing, passing
from policy_evidence import merged_adapter, merging, safe_measurements

from guardrail.commands._output import decision_lines
from guardrail.policy.bases import RULE
from guardrail.policy.rules import Evidence
from guardrail.records import Decision, Verdict
from guardrail.report import html, markdown

EVIL = '<script>alert(1)</script>" onload="x | [a](http://e.example) `b`\n| new | row |'
VOID = {"meta", "br", "rect"}


def evil() -> tuple[Decision, Evidence]:
    decision, evidence = failing()
    evidence = merging(evidence, merged_adapter(POLICY.digest, method=EVIL))
    assert evidence.data
    assert evidence.evaluation
    finding = decision.findings[1].model_copy(update={"reason": EVIL, "rule": EVIL, "sli": EVIL, "objective": EVIL})
    base = decision.base.model_copy(update={"name": EVIL})
    changes = {"findings": (finding,), "base": base, "method": EVIL, "model": EVIL, "policy_name": EVIL}
    one = safe_measurements()[0].model_copy(update={"suite": EVIL, "attack": EVIL})
    evaluation = evidence.evaluation.model_copy(update={"measurements": (one,)})
    data = evidence.data.model_copy(update={"source": EVIL})
    return decision.model_copy(update=changes), evidence.model_copy(update={"evaluation": evaluation, "data": data})


class Strict(HTMLParser):
    """Fails on tags that do not nest; collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_attempt_is_shown_where_somebody_counts() -> None:
    decision, evidence = passing()
    third = decision.model_copy(update={"attempt": 3})
    for render in (html.render, markdown.render):
        assert "Attempt 3 at this gate, judged at alpha / 2^3" in render(third, evidence)
        assert "ttempt" not in render(decision, evidence)


@pytest.mark.parametrize("case", [passing, failing])
def test_both_renderings_name_the_verdict_every_finding_and_every_digest(case: object) -> None:
    decision, evidence = passing() if case is passing else failing()
    page, text = html.render(decision, evidence), markdown.render(decision, evidence)
    assert decision.verdict.value.capitalize() in page
    assert decision.verdict.value in text
    for finding in decision.findings:
        assert finding.rule in page
        assert finding.rule.replace("_", r"\_") in text
    for value in (decision.policy, decision.data, decision.adapter, decision.evaluation, decision.manifest):
        assert value in page
        assert value in text


def test_the_page_draws_two_bars_for_every_measurement() -> None:
    decision, evidence = passing()
    assert parsed(html.render(decision, evidence)).tags.count("svg") == 2 * len(safe_measurements())


def test_the_page_names_every_adapter_that_was_merged_in() -> None:
    decision, evidence = passing()
    others = [merged_adapter(POLICY.digest, method=name, left_in=left) for name, left in (("replay", 0), ("lwf", 3))]
    page = html.render(decision, merging(evidence, *others))
    assert page.count("Merged in") == 2
    assert "3 flagged left in" in page
    assert all(other.manifest in page for other in others)
    assert "Merged in" not in html.render(decision, evidence)


def test_the_page_needs_no_network_and_no_script() -> None:
    page = html.render(*passing())
    assert not re.search(r"https?://|@import|url\(|<script|<link|<img", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_escapes_whatever_the_records_say() -> None:
    page = parsed(html.render(*evil()))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_markdown_neutralises_whatever_the_records_say() -> None:
    text = markdown.render(*evil())
    assert "<script>" not in text
    assert "](http" not in text
    assert not [line for line in text.splitlines() if line.startswith("| new")]
    rows = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [6]


def test_a_decision_alone_renders_without_its_records() -> None:
    decision, _ = passing()
    assert "Measurements" not in html.render(decision)
    assert "Judge" not in markdown.render(decision)
    parsed(html.render(decision))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_headline_in_words(verdict: Verdict) -> None:
    decision = passing()[0].model_copy(update={"verdict": verdict})
    words = verdict.value.replace("_", " ")
    assert words.capitalize() in html.render(decision)
    assert words in markdown.render(decision)


def test_every_rendering_says_loudly_that_a_policy_leaves_the_base_to_whoever_trained() -> None:
    decision, evidence = passing()
    assert decision.findings[0].rule == RULE
    unpinned = decision.model_copy(update={"findings": decision.findings[1:]})
    for render in (html.render, markdown.render, lambda one, _: "\n".join(decision_lines(one))):
        assert "NOT PINNED" in render(unpinned, evidence)
        assert "NOT PINNED" not in render(decision, evidence)
        assert decision.base.digest in render(decision, evidence)
