"""What MLflow shows of a decision: tags and metrics that an auditor reads without our tool.

Tags repeat what is signed; they prove nothing by themselves, so verification compares every ``guardrail.*`` tag of a
version with the envelope and refuses any that differs, is missing or was added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guardrail.records import Decision, EvaluationReport, Measurement

PREFIX = "guardrail."
EVIDENCE = PREFIX + "evidence_sha256"
MODEL_ID = PREFIX + "model_id"
ADAPTER = PREFIX + "adapter_sha256"
LONGEST = 4000
VERDICT, REVOKED = PREFIX + "verdict", PREFIX + "revoked"
WITHDRAWN = "REVOKED"
"""The verdict that a version of a revoked adapter shows; no decision ever has it."""


def tags(decision: Decision, evidence_sha256: str, signed_by: Sequence[str]) -> dict[str, str]:
    """The tags of the run, of the logged model and (with ``guardrail.model_id``) of the version."""
    values = {
        "verdict": decision.verdict.value,
        "evidence_sha256": evidence_sha256,
        "policy": decision.policy_name,
        "policy_sha256": decision.policy,
        "adapter_sha256": decision.manifest,
        "base": decision.base.name,
        "base_sha256": decision.base.digest,
        "method": decision.method,
        "target": f"{decision.model}@{decision.alias}",
        "decided_at": decision.decided_at.isoformat(),
        "valid_until": decision.valid_until.isoformat(),
        "signed_by": ", ".join(signed_by),
        "reasons": reasons(decision),
        **({"attempt": str(decision.attempt)} if decision.attempt else {}),
    }
    return {PREFIX + name: value[:LONGEST] for name, value in values.items()}


def reasons(decision: Decision) -> str:
    """One line per rule: verdict, rule, reason."""
    return "\n".join(f"{finding.verdict} {finding.rule}: {finding.reason}" for finding in decision.findings)


def metrics(evaluation: EvaluationReport) -> dict[str, float]:
    """Value and both bounds of every measurement, and the base's value."""
    found: dict[str, float] = {}
    for measurement in evaluation.measurements:
        name, rate = _name(measurement), measurement.candidate
        found |= {f"{name}/value": rate.value, f"{name}/lower": rate.lower, f"{name}/upper": rate.upper}
        found[f"{name}/base"] = measurement.base.value
    return found


def _name(measurement: Measurement) -> str:
    parts = (measurement.sli.value, measurement.suite, measurement.split, measurement.attack, measurement.judge.name)
    return "/".join(re.sub(r"[^A-Za-z0-9_.-]", "-", part)[:40] for part in parts if part)
