"""What must be measured for a policy: its rules say it. Not covered: tasks that a command line adds."""

from __future__ import annotations

from collections.abc import Iterator

from guardrail.policy.rules import Need, load_rule
from guardrail.policy.schema import Policy
from guardrail.records import Sli


def needs(policy: Policy) -> tuple[Need, ...]:
    """What must be measured for this policy, each once; a rule for every task stands for every declared task."""
    return tuple(dict.fromkeys(_every_need(policy)))


def _every_need(policy: Policy) -> Iterator[Need]:
    for limits in policy.rules:
        for need in load_rule(limits.rule).needs(limits):
            if need.sli is Sli.UTILITY and not need.suite and policy.tasks:
                yield from (need.model_copy(update={"suite": task}) for task in policy.tasks)
            else:
                yield need
