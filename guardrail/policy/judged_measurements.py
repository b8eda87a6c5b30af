"""Which rules of a policy judge a measurement: for whoever looks at numbers and asks what limits them.

Not covered: judging (each rule's own); a measurement that no rule asks for limits nothing, whatever it shows.
"""

from __future__ import annotations

from guardrail.policy.rules import Need, load_rule
from guardrail.policy.schema import Policy
from guardrail.records import Finding, Measurement, Sli


def judged_by(policy: Policy, findings: tuple[Finding, ...], measurement: Measurement) -> tuple[Finding, ...]:
    """The findings of those rules that ask for this measurement.

    Args:
        policy: the policy of the decision.
        findings: the decision's; they end with one for each rule, in the policy's order.
        measurement: one of its evaluation.
    """
    rules = policy.rules
    pairs = zip(rules, findings[len(findings) - len(rules) :], strict=True)
    if measurement.split != _split(policy, measurement):
        return ()
    return tuple(
        found
        for limits, found in pairs
        if any(_asks(need, measurement) for need in load_rule(limits.rule).needs(limits))
    )


def _split(policy: Policy, measurement: Measurement) -> str:
    plans = policy.tasks if measurement.sli is Sli.UTILITY else policy.suites
    plan = plans.get(measurement.suite)
    return plan.split if plan else measurement.split


def _asks(need: Need, measurement: Measurement) -> bool:
    return (
        need.sli == measurement.sli
        and need.suite in ("", measurement.suite)
        and need.attack in ("", measurement.attack)
        and need.judge in ("", measurement.judge.name)
    )
