"""The examples beside the shipped policies: each decides as its name says, and stays as it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Golden
from policy_evidence import POLICIES, chain, forgetful_measurements

from guardrail.evidence.digest import digest
from guardrail.policy.decide import decide
from guardrail.policy.load import builtin, load_policy
from guardrail.policy.rules import Evidence
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, Verdict

NOW = datetime(2026, 11, 1, tzinfo=UTC)
EXPECTED = {"passing": Verdict.PASSED, "failing": Verdict.FAILED}
CASES = [(policy, outcome) for policy in ("default", "strict") for outcome in EXPECTED]


def _example(policy: str, outcome: str) -> Path:
    return POLICIES / "examples" / f"{policy}.{outcome}.json"


def _made(policy: str, outcome: str) -> Evidence:
    name = load_policy(builtin(policy)).digest
    if outcome == "passing":
        return chain(name)
    return chain(name, method="finetune", measurements=forgetful_measurements(), left_in=40)


@pytest.mark.parametrize(("policy", "outcome"), CASES)
def test_an_example_is_what_the_helpers_make(policy: str, outcome: str, golden: Golden) -> None:
    records = _made(policy, outcome).model_dump(mode="json", include={"data", "adapter", "evaluation"})
    golden(_example(policy, outcome), json.dumps(records, indent=2) + "\n")


@pytest.mark.parametrize(("policy", "outcome"), CASES)
def test_an_example_decides_as_its_name_says(policy: str, outcome: str) -> None:
    stored = json.loads(_example(policy, outcome).read_text(encoding="utf-8"))
    evidence = Evidence(
        data=DataReport.model_validate(stored["data"]),
        adapter=AdapterRecord.model_validate(stored["adapter"]),
        evaluation=EvaluationReport.model_validate(stored["evaluation"]),
    )
    decision = decide(load_policy(builtin(policy)), evidence, inputs=digest(stored), now=NOW)
    assert decision.verdict is EXPECTED[outcome], [finding.reason for finding in decision.findings]
