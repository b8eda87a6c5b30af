"""Decisions of the default policy, with the evidence that they rest on. Not a test file."""

from __future__ import annotations

from datetime import UTC, datetime

from policy_evidence import chain, forgetful_measurements

from guardrail.evidence.digest import sha256
from guardrail.policy.decide import decide
from guardrail.policy.load import find_policy
from guardrail.policy.rules import Evidence
from guardrail.records import Decision

POLICY = find_policy("default")


def made(evidence: Evidence) -> Decision:
    now = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)
    return decide(POLICY, evidence, inputs=sha256(b"inputs"), now=now)


def passing() -> tuple[Decision, Evidence]:
    evidence = chain(POLICY.digest)
    return made(evidence), evidence


def failing() -> tuple[Decision, Evidence]:
    evidence = chain(POLICY.digest, method="finetune", measurements=forgetful_measurements(), left_in=40)
    return made(evidence), evidence
