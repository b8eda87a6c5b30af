"""Whether an evaluation asked what the policy pins, in the way that the policy says.

A policy is pinned by its digest; what it names by ``sha256`` is pinned with it, and so are its generation settings.
Not covered: whether the measurements hold (the rules say so), and suites and tasks without a ``sha256``: the statement
of whoever evaluated binds their digests, but nobody compares them.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardrail.errors import EvidenceInvalid
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.schema import Policy, SuitePlan, TaskPlan
from guardrail.records import EvaluationReport, Measurement, Sli


def require_as_planned(policy: LoadedPolicy, evaluation: EvaluationReport) -> None:
    """Refuse measurements of other contents than those pinned, and answers that were generated otherwise.

    Raises:
        EvidenceInvalid: naming the suite or task and both digests, or the setting and both values.
    """
    for measurement in evaluation.measurements:
        _require_pinned(policy.policy, measurement)
    expected, found = policy.policy.generation.recorded, evaluation.generation
    for setting in dict.fromkeys((*expected, *found)):
        if setting not in expected or setting not in found or found[setting] != expected[setting]:
            raise EvidenceInvalid(
                f"the evaluation's generation has {setting} = {found.get(setting, 'not given')!r}",
                expected=f"{expected.get(setting, 'no such setting')!r}, as policy {policy.policy.name!r} says",
                next_step="evaluate again under this policy",
            )


def _require_pinned(policy: Policy, measurement: Measurement) -> None:
    """On every split: measurements on another than the policy's do not count, and pinned contents have but one."""
    section = "tasks" if measurement.sli is Sli.UTILITY else "suites"
    plans: Mapping[str, SuitePlan | TaskPlan] = policy.tasks if section == "tasks" else policy.suites
    plan = plans.get(measurement.suite)
    if plan is not None and plan.sha256 is not None and measurement.suite_digest != plan.sha256:
        raise EvidenceInvalid(
            f"{measurement.sli.value} was measured on other contents than the policy's {measurement.suite!r}: "
            f"{measurement.suite_digest}",
            expected=f"{plan.sha256} ({section}.{measurement.suite}.sha256)",
            next_step="evaluate again with the suites and tasks that the policy pins",
        )
