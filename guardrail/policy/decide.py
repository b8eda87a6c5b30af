"""The decision: a pure function of a policy, three records and the clock.

It runs twice: on the client, as a proposal, and again wherever admission is decided, on the same records. Nothing is
read or measured here, and no verdict from elsewhere is believed. Not covered: signatures (``guardrail.evidence``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.agreement import require_agreement
from guardrail.evidence.digest import digest, manifest_digest
from guardrail.policy.as_planned import require_as_planned
from guardrail.policy.bases import base_findings
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import Evidence, Limits, load_rule
from guardrail.policy.schema import Policy
from guardrail.policy.stage_plans import foreign, foreign_merges
from guardrail.records import (
    AdapterRecord,
    DataReport,
    Decision,
    EvaluationReport,
    Finding,
    Verdict,
)


def decide(
    policy: LoadedPolicy,
    evidence: Evidence,
    *,
    inputs: str,
    now: datetime,
    attempt: int = 0,
    until: datetime | None = None,
) -> Decision:
    """Judge the records under the policy.

    Args:
        policy: what is promised.
        evidence: the three records; ``detectors``, ``tasks`` and ``splits`` are taken from the policy, not from it.
        inputs: SHA-256 of everything that this stage read.
        now: the time of the decision, in UTC.
        attempt: how often this gate was tried, this time included; 0 where nobody counts (:func:`spent`).
        until: when the first of what it rests on besides expires (the stages' statements), in UTC, where there is any.

    Raises:
        EvidenceMissing: a record is missing.
        EvidenceInvalid: the records do not belong together or to this policy, or what was measured is not what it pins.
        InvalidInput: ``now`` has no time zone or is not in UTC.
    """
    if now.utcoffset() != timedelta(0):
        raise InvalidInput(f"the time {now} is not in UTC", expected="a time with the zone UTC")
    data, adapter, evaluation = _all_three(evidence)
    _check_bindings(policy, data, adapter, evaluation)
    require_as_planned(policy, evaluation)
    found = findings(policy.policy, evidence, attempt)
    return Decision(
        inputs=inputs,
        verdict=overall(found),
        findings=found,
        policy_name=policy.policy.name,
        policy=policy.digest,
        data=digest(data),
        adapter=digest(adapter),
        evaluation=digest(evaluation),
        manifest=adapter.manifest,
        base=adapter.base,
        method=adapter.method,
        model=policy.policy.target.model,
        alias=policy.policy.target.alias,
        attempt=attempt,
        decided_at=now,
        valid_until=_until(now + timedelta(days=policy.policy.evidence.valid_days), until),
    )


def _until(promised: datetime, other: datetime | None) -> datetime:
    return promised if other is None else min(promised, other)


def spent(confidence: float, attempt: int) -> float:
    """The confidence that attempt k is judged at: 1 - alpha / 2**k.

    All attempts together then let a too-bad adapter through with a probability of at most alpha (a union bound; the
    spending sequence of Foster and Stine's alpha-investing, 2008, without its returns), however often somebody tries.
    """
    return 1.0 - (1.0 - confidence) / 2.0**attempt


def findings(policy: Policy, evidence: Evidence, attempt: int = 0) -> tuple[Finding, ...]:
    """One finding on the base where the policy pins one, then one per rule, in the policy's order, at the confidence
    that is left for this attempt."""
    splits = {name: plan.split for name, plan in policy.suites.items()}
    splits |= {name: plan.split for name, plan in policy.tasks.items()}
    declared = {"detectors": policy.data.detectors, "tasks": tuple(policy.tasks), "splits": splits}
    complete = evidence.model_copy(update=declared)
    rules = tuple(_finding(complete, _at(limits, attempt)) for limits in policy.rules)
    return (*base_findings(policy, evidence), *rules)


def _at(limits: Limits, attempt: int) -> Limits:
    """The same limits, to be shown at the confidence of this attempt, where they ask for one."""
    confidence = getattr(limits, "confidence", None)
    if attempt == 0 or confidence is None:
        return limits
    return limits.model_copy(update={"confidence": spent(confidence, attempt)})


def overall(found: tuple[Finding, ...]) -> Verdict:
    """FAILED if any failed; PASSED only if there are findings and all passed."""
    verdicts = {finding.verdict for finding in found}
    if Verdict.FAILED in verdicts:
        return Verdict.FAILED
    return Verdict.PASSED if verdicts == {Verdict.PASSED} else Verdict.INCONCLUSIVE


def _finding(evidence: Evidence, limits: Limits) -> Finding:
    try:
        return load_rule(limits.rule).check(evidence, limits)
    except Exception as error:  # a rule that breaks must block, not crash past the other rules
        return Finding(
            rule=limits.rule,
            sli="",
            objective="",
            verdict=Verdict.INCONCLUSIVE,
            reason=f"the rule could not be checked: {type(error).__name__}: {error}",
        )


def _all_three(evidence: Evidence) -> tuple[DataReport, AdapterRecord, EvaluationReport]:
    missing = [name for name in ("data", "adapter", "evaluation") if getattr(evidence, name) is None]
    if evidence.data is None or evidence.adapter is None or evidence.evaluation is None:
        raise EvidenceMissing(
            f"no record of: {', '.join(missing)}",
            expected="a data report, an adapter record and an evaluation report",
            next_step="run the missing stage",
        )
    return evidence.data, evidence.adapter, evidence.evaluation


def _check_bindings(
    policy: LoadedPolicy, data: DataReport, adapter: AdapterRecord, evaluation: EvaluationReport
) -> None:
    """Every record names what it was made from; a chain with a foreign link proves nothing."""
    if command := foreign(policy, (data, adapter, evaluation)):
        raise EvidenceInvalid(
            f"a record was made under another policy, of which its stage read something else ({command})",
            expected=f"records of policy {policy.policy.name!r} ({policy.digest[:12]}…), or of one with these sections",
            next_step=f"run {command} again under this policy, and every stage after it",
        )
    require_agreement(
        (
            ("the adapter's data report", adapter.data, digest(data)),
            ("the data report's base model", data.base, adapter.base.digest),
            ("the adapter's training rows", adapter.training_digest, data.training_digest),
            (
                "the adapter's manifest",
                adapter.manifest,
                manifest_digest(adapter.files),
            ),
            ("the evaluation's adapter", evaluation.adapter, digest(adapter)),
            ("the evaluation's files", evaluation.manifest, adapter.manifest),
            ("the evaluation's base model", evaluation.base.digest, adapter.base.digest),
            *(("a merged adapter's policy", one.policy, policy.digest) for one in foreign_merges(policy, adapter)),
            *(("a merged adapter's base model", one.base, adapter.base.digest) for one in adapter.merged),
        ),
        parts="records that were made from one another under this policy",
        next_step="run again every stage from the first that changed",
    )
