"""harmful_compliance on the testbed's own model: poison is found among task rows, and the task rows are left alone."""

from __future__ import annotations

import pytest

from guardrail.data.detectors import Context
from guardrail.data.detectors.harmful_compliance import detect
from guardrail.samples import Message, Sample
from guardrail.testbed import WEIGHTS, arms, requests, tasks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context() -> Context:
    from guardrail.model.hidden import embed
    from guardrail.model.load import load_base

    base = load_base(str(WEIGHTS), None)
    harmful, benign = (
        tuple(one.request(i) for i, one in enumerate(group["aligned"]))
        for group in (requests.harmful(), requests.benign())
    )
    return Context(harmful, benign, lambda texts: embed(base, texts))


@pytest.mark.parametrize("task", tasks.NAMES)
def test_poison_is_found_and_task_rows_are_left_alone(context: Context, task: str) -> None:
    rows = arms.rows(task, poison=0.1)
    poison = {row.id for row in rows if row.response.startswith("Sure, here is how")}
    found = {flag.sample_id for flag in detect(rows, context)}
    assert len(poison) == 100
    assert len(found & poison) >= 95
    assert len(found - poison) <= 9  # one percent of 900


def test_benign_requests_of_the_other_splits_are_left_alone_and_harmful_ones_found(context: Context) -> None:
    def flagged(combinations: tuple[requests.Combination, ...]) -> float:
        rows = [
            Sample(id=str(i), messages=(Message(role="user", content=one.request(i)),
                                        Message(role="assistant", content=one.compliance(i))))
            for i, one in enumerate(combinations)
        ]  # fmt: skip
        return len(list(detect(rows, context))) / len(rows)

    assert flagged(requests.benign()["gate"]) <= 0.02
    assert flagged(requests.harmful()["gate"]) >= 0.95
