"""Flagged samples: how many rows that a detector flagged were left in the training data.

An absolute count, not a share: about a hundred poisoned rows suffice whatever the size of the data. Does not cover
poison that no detector flags; that is what the behavioural rules measure.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from guardrail.policy.rules import Evidence, Need
from guardrail.policy.rules import Limits as Base
from guardrail.policy.rules._bounds import InconclusiveError, Judged, finding
from guardrail.records import Finding, Verdict


class Limits(Base):
    """At most ``max_left_in`` flagged rows are trained on; ``detectors`` (else the policy's) must all have run."""

    rule: Literal["flagged_samples"]
    max_left_in: Annotated[int, Field(ge=0)]
    detectors: tuple[str, ...] = ()


def needs(limits: Limits) -> tuple[Need, ...]:  # noqa: ARG001 - the interface's signature
    """Nothing is measured on the model."""
    return ()


def unprovable(limits: Limits) -> str:  # noqa: ARG001 - the interface's signature
    """A count needs no sample."""
    return ""


def check(evidence: Evidence, limits: Limits) -> Finding:
    """PASSED if the count is inside the limit and every detector ran on the data."""

    def judge() -> Judged:
        if evidence.data is None:
            raise InconclusiveError("there is no data report")
        left = evidence.data.flagged_left_in
        text = f"{left} of {evidence.data.flagged} flagged rows left in, limit {limits.max_left_in}"
        if left > limits.max_left_in:
            return Judged(verdict=Verdict.FAILED, reason=text)
        missing = _not_run(evidence, limits)
        if missing:
            raise InconclusiveError(f"detectors that did not run: {', '.join(missing)}")
        return Judged(verdict=Verdict.PASSED, reason=text)

    return finding(limits.rule, "flagged samples left in", f"at most {limits.max_left_in}", judge)


def _not_run(evidence: Evidence, limits: Limits) -> list[str]:
    ran = {result.name for result in evidence.data.detectors} if evidence.data else set()
    return [name for name in limits.detectors or evidence.detectors if name not in ran]
