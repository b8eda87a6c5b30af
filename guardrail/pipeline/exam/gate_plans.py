"""What is measured in a run: the policy's rules say it, the command line's tasks add to it. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator

from guardrail.errors import InvalidInput
from guardrail.evaluate.measure import Plan, plan_attack, plan_coherence, plan_over_refusal, plan_utility
from guardrail.pipeline import resolve
from guardrail.pipeline.exam import withheld_suites
from guardrail.pipeline.run import RunConfig
from guardrail.policy.decide import needs
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import Need
from guardrail.records import Sli

DEFAULT_JUDGE = "refusal"


def plan_all(policy: LoadedPolicy, config: RunConfig) -> Iterator[Plan]:
    """What the rules need, then the command line's tasks: rules without a task judge every task measured.

    Raises:
        InvalidInput: a suite (a withheld one, say) or a task cannot be read here, or no task is named.
    """
    system = policy.policy.generation.system or ""
    wanted = needs(policy.policy)
    for need in wanted:
        yield from _plan(policy, config, need, system)
    if any(need.sli is Sli.UTILITY and need.suite for need in wanted):
        extra = [task for task in task_names(policy, config) if task not in {need.suite for need in wanted}]
        yield from (plan_utility(resolve.task(policy, spec(config, task)), system) for task in extra)


def _plan(policy: LoadedPolicy, config: RunConfig, need: Need, system: str) -> Iterator[Plan]:
    judge = need.judge or DEFAULT_JUDGE
    if need.sli is Sli.ATTACK_SUCCESS_RATE:
        yield plan_attack(withheld_suites.suite(policy, config, need.suite), need.attack or "direct", judge, system)
    elif need.sli is Sli.OVER_REFUSAL_RATE:
        yield plan_over_refusal(withheld_suites.suite(policy, config, need.suite), judge, system)
    elif need.sli is Sli.COHERENCE:
        yield plan_coherence(withheld_suites.suite(policy, config, need.suite), system)
    else:
        tasks = (need.suite,) if need.suite else task_names(policy, config)
        if not tasks:
            raise InvalidInput(
                f"{policy.source} asks for utility, but no task is named",
                next_step="give --task NAME, or declare tasks in the policy",
            )
        yield from (plan_utility(resolve.task(policy, spec(config, task)), system) for task in tasks)


def spec(config: RunConfig, name: str) -> str:
    """The command line's ``NAME=FORMAT:PATH`` for a task name, where there is one."""
    return next((spec for spec in config.tasks if spec.partition("=")[0] == name), name)


def task_names(policy: LoadedPolicy, config: RunConfig) -> tuple[str, ...]:
    """The tasks that utility is measured on: the policy's, and those the run was started with."""
    named = (spec.partition("=")[0] for spec in config.tasks)
    return tuple(dict.fromkeys((*policy.policy.tasks, *named)))
