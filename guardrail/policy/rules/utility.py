"""Utility: the share of right answers on a task, absolutely and against the base on the same items.

Without ``task`` it holds for every task that the policy declares and for every task that was measured; leaving a
declared one out is inconclusive, so nobody can show only the flattering ones. Does not cover how an answer is scored
(``guardrail.evaluate.tasks``).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from guardrail.policy.rules import Evidence, Need
from guardrail.policy.rules import Limits as Base
from guardrail.policy.rules._bounds import (
    BoundVerdict,
    Confidence,
    InconclusiveError,
    LeastN,
    Limit,
    at_least,
    drop_at_most,
    enough,
    finding,
    halved,
    percent,
    points,
    the_measurement,
    too_few,
    worst,
)
from guardrail.records import Finding, Sli, Verdict


class Limits(Base):
    """At least ``min`` of the answers are right, and at most ``max_drop`` fewer than the base's."""

    rule: Literal["utility"]
    task: str = ""
    min: Limit | None = None
    max_drop: Limit | None = None
    confidence: Confidence = 0.95
    min_n: LeastN

    @model_validator(mode="after")
    def _promises_something(self) -> Self:
        if self.min is None and self.max_drop is None:
            raise ValueError("utility needs min, max_drop or both")
        return self


def needs(limits: Limits) -> tuple[Need, ...]:
    """The task; an empty name stands for every task. The task itself fixes how it is asked and scored."""
    return (_need(limits.task),)


def _need(task: str) -> Need:
    return Need(sli=Sli.UTILITY, suite=task, attack="", judge="")


def unprovable(limits: Limits) -> str:
    """Too few items even if every answer is right, or for an adapter that equals its base."""
    reason = ""
    if limits.min is not None:
        text = f"a share of at least {percent(limits.min)}"
        reason = too_few(1.0 - limits.min, limits.confidence, limits.min_n, text)
    if not reason and limits.max_drop is not None:
        text = f"a drop of at most {points(limits.max_drop)}"
        reason = too_few(limits.max_drop, halved(limits.confidence), limits.min_n, text)
    return reason


def check(evidence: Evidence, limits: Limits) -> Finding:
    """The worst verdict over the tasks it holds for; no task at all is inconclusive."""
    tasks = (limits.task,) if limits.task else _every_task(evidence)

    def judge() -> BoundVerdict:
        if not tasks:
            raise InconclusiveError("no utility was measured")
        return worst([_judge_task(evidence, limits, task) for task in tasks])

    return finding(limits.rule, str(_need(limits.task)), objective(limits), judge)


def objective(limits: Limits) -> str:
    """The promise in words."""
    absolute = [f"at least {percent(limits.min)}"] if limits.min is not None else []
    relative = [f"at most {points(limits.max_drop)} below the base"] if limits.max_drop is not None else []
    return ", ".join(absolute + relative)


def _every_task(evidence: Evidence) -> tuple[str, ...]:
    measured = evidence.evaluation.measurements if evidence.evaluation else ()
    return tuple(dict.fromkeys([*evidence.tasks, *(one.suite for one in measured if one.sli == Sli.UTILITY)]))


def _judge_task(evidence: Evidence, limits: Limits, task: str) -> BoundVerdict:
    try:
        measurement = the_measurement(evidence, _need(task))
        enough(measurement.candidate, limits.min_n)
        judged = []
        if limits.min is not None:
            judged.append(at_least(measurement, limits.min, limits.confidence))
        if limits.max_drop is not None:
            judged.append(drop_at_most(measurement, limits.max_drop, limits.confidence))
        together = worst(judged)
    except InconclusiveError as reason:
        together = BoundVerdict(verdict=Verdict.INCONCLUSIVE, reason=str(reason))
    return together.model_copy(update={"reason": f"{task}: {together.reason}"})
