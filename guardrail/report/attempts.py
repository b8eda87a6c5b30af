"""How often a gate was tried, in words, for every rendering of a decision."""

from __future__ import annotations

from guardrail.records import Decision


def attempt_sentence(decision: Decision) -> str:
    """Which attempt at its gate the decision is and what follows from that; empty where nobody counts."""
    if decision.attempt == 0:
        return ""
    return (
        f"Attempt {decision.attempt} at this gate, judged at alpha / 2^{decision.attempt}:"
        " the findings name the confidence of each bound."
    )
