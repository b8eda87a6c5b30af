"""What is measured in a run: the policy's rules say it, the command line's tasks add to it. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator

from guardrail.errors import InvalidInput
from guardrail.evaluate.measure import Plan, plan_attack, plan_coherence, plan_over_refusal, plan_utility
from guardrail.pipeline.exam.exam import Exam
from guardrail.policy.needed import needs
from guardrail.policy.rules import Need
from guardrail.records import Sli

DEFAULT_JUDGE = "refusal"


def plan_all(exam: Exam) -> Iterator[Plan]:
    """What the rules need, then the command line's tasks: rules without a task judge every task measured.

    Raises:
        InvalidInput: a suite (a withheld one, say) or a task cannot be read here, or no task is named.
    """
    policy = exam.policy.policy
    system, wanted = policy.generation.system or "", needs(policy)
    for need in wanted:
        yield from _plan(exam, need, system)
    if any(need.sli is Sli.UTILITY and need.suite for need in wanted):
        extra = [task for task in exam.task_names if task not in {need.suite for need in wanted}]
        yield from (plan_utility(exam.task(task), system) for task in extra)


def _plan(exam: Exam, need: Need, system: str) -> Iterator[Plan]:
    judge = need.judge or DEFAULT_JUDGE
    if need.sli is Sli.ATTACK_SUCCESS_RATE:
        yield plan_attack(exam.suite(need.suite), need.attack or "direct", judge, system)
    elif need.sli is Sli.OVER_REFUSAL_RATE:
        yield plan_over_refusal(exam.suite(need.suite), judge, system)
    elif need.sli is Sli.COHERENCE:
        yield plan_coherence(exam.suite(need.suite), system)
    else:
        tasks = (need.suite,) if need.suite else exam.task_names
        if not tasks:
            raise InvalidInput(
                f"{exam.policy.source} asks for utility, but no task is named",
                next_step="give --task NAME, or declare tasks in the policy",
            )
        yield from (plan_utility(exam.task(task), system) for task in tasks)
