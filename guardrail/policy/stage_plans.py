"""Which sections of a policy each stage reads, by digest: what else changes in a policy makes no stage run again.

The data stage reads how data is looked at. Training reads what must not be trained on (suites and tasks) and how long
replayed answers may be, and the limits that are chosen by where something is chosen. Evaluation reads what is measured
and how. Limits, validity and comments are the decision's alone. A record that a stage made under another policy with
the same plan is the record that it would make under this one.
Not covered: contents that a policy names without pinning them; they are among a stage's inputs where it reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from guardrail.evidence.digest import digest
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.needed import needs
from guardrail.policy.rules import attack_success_rate, training_method
from guardrail.policy.schema import Policy, SuitePlan, TaskPlan
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, Frozen, MergedAdapter

CHOSEN_BY = (attack_success_rate.Limits, training_method.Limits)
"""Limits by which candidates, and methods, are chosen."""


def data_plan(policy: Policy) -> str:
    """The digest of what the data stage reads."""
    return digest({"stage": "data", "data": _said(policy.data), "judged": _judged(policy)})


def train_plan(policy: Policy, *, chooses: bool = False) -> str:
    """The digest of what the training stage reads; where it ``chooses``, of the limits that it chooses by, too."""
    limits = [limit for limit in policy.rules if chooses and isinstance(limit, CHOSEN_BY)]
    return digest(
        {
            "stage": "train",
            "suites": _contents(policy.suites),
            "tasks": _contents(policy.tasks),
            "judged": _judged(policy),
            "generation": policy.generation.recorded,
            "limits": [_said(limit) for limit in limits],
        }
    )


def evaluation_plan(policy: Policy) -> str:
    """The digest of what the evaluation stage reads."""
    wanted = needs(policy)
    named = {need.suite for need in wanted}
    return digest(
        {
            "stage": "evaluate",
            "needs": sorted(need.model_dump_json() for need in wanted),
            "suites": _contents({name: plan for name, plan in policy.suites.items() if name in named}),
            "tasks": _contents(policy.tasks),
            "generation": policy.generation.recorded,
        }
    )


def foreign_merges(policy: LoadedPolicy, adapter: AdapterRecord) -> tuple[MergedAdapter, ...]:
    """The merged adapters whose run was neither looked at and trained under this policy, nor under the same plans."""
    data, trained = data_plan(policy.policy), (train_plan(policy.policy), train_plan(policy.policy, chooses=True))
    return tuple(
        one
        for one in adapter.merged
        if one.policy != policy.digest and not (one.data_plan == data and one.train_plan in trained)
    )


def foreign(policy: LoadedPolicy, records: Iterable[DataReport | AdapterRecord | EvaluationReport]) -> str:
    """The command of the first stage whose record is of another policy and of another plan; empty if there is none."""
    for record in records:
        if record.policy != policy.digest and record.plan not in _plans(policy.policy, record):
            return COMMANDS[type(record)]
    return ""


COMMANDS: Mapping[type, str] = {
    DataReport: "guardrail data validate",
    AdapterRecord: "guardrail train",
    EvaluationReport: "guardrail evaluate",
}


def _plans(policy: Policy, record: DataReport | AdapterRecord | EvaluationReport) -> tuple[str, ...]:
    """What the record's plan may be under this policy."""
    if isinstance(record, DataReport):
        return (data_plan(policy),)
    if isinstance(record, AdapterRecord):
        return train_plan(policy), train_plan(policy, chooses=True)
    return (evaluation_plan(policy),)


def _judged(policy: Policy) -> list[str]:
    """The suites that rules name: their prompts must be among neither anchors, nor rows, nor what is replayed."""
    return sorted({need.suite for need in needs(policy)} & set(policy.suites))


def _contents(plans: Mapping[str, SuitePlan | TaskPlan]) -> dict[str, Any]:
    """Contents that are pinned are the same wherever they lie."""
    return {name: _said(plan, exclude={"path"} if plan.sha256 else set()) for name, plan in plans.items()}


def _said(section: Frozen, exclude: set[str] | None = None) -> dict[str, Any]:
    """What a section says otherwise than by default: a key that a later release adds changes no digest.

    Defaults must therefore never change.
    """
    return section.model_dump(mode="json", exclude_defaults=True, exclude=exclude)
