"""Flagged samples: how many rows that a detector flagged were left in the training data.

An absolute count, not a share: about a hundred poisoned rows suffice whatever the size of the data. The rows of
adapters that were merged in count as if they were this run's. Does not cover poison that no detector flags (that is
what the behavioural rules measure), nor whether a merged adapter was trained on the rows that its records name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from guardrail.policy.rules import Evidence, Need
from guardrail.policy.rules import Limits as Base
from guardrail.policy.rules._bounds import BoundVerdict, InconclusiveError, finding
from guardrail.records import DataReport, Finding, MergedAdapter, Verdict


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

    def judge() -> BoundVerdict:
        if evidence.data is None:
            raise InconclusiveError("there is no data report")
        merged = evidence.adapter.merged if evidence.adapter else ()
        left = left_in((evidence.data, *merged))
        flagged = evidence.data.flagged + sum(one.flagged for one in merged)
        text = f"{left} of {flagged} flagged rows left in, limit {limits.max_left_in}"
        text += f" (with those of {len(merged)} merged adapters)" if merged else ""
        if left > limits.max_left_in:
            return BoundVerdict(verdict=Verdict.FAILED, reason=text)
        missing = _not_run(evidence, limits)
        if missing:
            raise InconclusiveError(f"detectors that did not run: {', '.join(missing)}")
        return BoundVerdict(verdict=Verdict.PASSED, reason=text)

    return finding(limits.rule, "flagged samples left in", f"at most {limits.max_left_in}", judge)


def left_in(sources: Sequence[DataReport | MergedAdapter]) -> int:
    """Flagged rows that were trained on, over everything that an adapter is made of."""
    return sum(source.flagged_left_in for source in sources)


def _not_run(evidence: Evidence, limits: Limits) -> list[str]:
    """Detectors that did not look at all rows: this run's and those of every merged adapter."""
    ran = {result.name for result in evidence.data.detectors} if evidence.data else set()
    for merged in evidence.adapter.merged if evidence.adapter else ():
        ran &= set(merged.detectors)
    return [name for name in limits.detectors or evidence.detectors if name not in ran]
