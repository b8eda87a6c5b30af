"""Training method: only methods that protect what the base learned may make a promotable adapter.

Does not cover whether the method worked; the behavioural rules measure that on the adapter itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from guardrail.policy.rules import Evidence, Need
from guardrail.policy.rules import Limits as Base
from guardrail.policy.rules._bounds import InconclusiveError, Judged, finding
from guardrail.records import Finding, Verdict


class Limits(Base):
    """The adapter was made by one of ``allowed``."""

    rule: Literal["training_method"]
    allowed: Annotated[tuple[str, ...], Field(min_length=1)]


def needs(limits: Limits) -> tuple[Need, ...]:  # noqa: ARG001 - the interface's signature
    """Nothing is measured on the model."""
    return ()


def unprovable(limits: Limits) -> str:  # noqa: ARG001 - the interface's signature
    """A name needs no sample."""
    return ""


def check(evidence: Evidence, limits: Limits) -> Finding:
    """PASSED if the adapter's method is among the allowed ones."""

    def judge() -> Judged:
        if evidence.adapter is None:
            raise InconclusiveError("there is no adapter record")
        method = evidence.adapter.method
        verdict = Verdict.PASSED if method in limits.allowed else Verdict.FAILED
        return Judged(verdict=verdict, reason=f"trained by {method}")

    return finding(limits.rule, "training method", f"one of {', '.join(limits.allowed)}", judge)
