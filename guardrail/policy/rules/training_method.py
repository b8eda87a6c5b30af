"""Training method: only methods that protect what the base learned may make a promotable adapter.

It holds for the adapters of other runs that were merged in, too: a merge must not launder a method that is forbidden.
Does not cover whether the method worked; the behavioural rules measure that on the adapter itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from guardrail.policy.rules import Evidence, Need
from guardrail.policy.rules import Limits as Base
from guardrail.policy.rules._bounds import BoundVerdict, InconclusiveError, finding
from guardrail.records import Finding, Verdict


class Limits(Base):
    """The adapter, and every adapter merged into it, was made by one of ``allowed``."""

    rule: Literal["training_method"]
    allowed: Annotated[tuple[str, ...], Field(min_length=1)]


def needs(limits: Limits) -> tuple[Need, ...]:  # noqa: ARG001 - the interface's signature
    """Nothing is measured on the model."""
    return ()


def unprovable(limits: Limits) -> str:  # noqa: ARG001 - the interface's signature
    """A name needs no sample."""
    return ""


def check(evidence: Evidence, limits: Limits) -> Finding:
    """PASSED if the adapter's method, and that of every adapter merged in, is among the allowed ones."""

    def judge() -> BoundVerdict:
        if evidence.adapter is None:
            raise InconclusiveError("there is no adapter record")
        method, merged = evidence.adapter.method, [one.method for one in evidence.adapter.merged]
        verdict = Verdict.PASSED if {method, *merged} <= set(limits.allowed) else Verdict.FAILED
        others = f", merged with adapters trained by {', '.join(merged)}" if merged else ""
        return BoundVerdict(verdict=verdict, reason=f"trained by {method}{others}")

    return finding(limits.rule, "training method", f"one of {', '.join(limits.allowed)}", judge)
