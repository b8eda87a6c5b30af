"""Linear merging (task arithmetic): lambda times the user's update plus the rest, in equal shares, times the others.

dW(lambda) = lambda dW_user + (1 - lambda) / n (dW_1 + ... + dW_n), exact by concatenating the factors: ranks add up,
nothing is truncated. The n others are adapters of other runs, or the safety update alone where none is given. Source:
Ilharco et al., "Editing models with task arithmetic", ICLR 2023 (arXiv 2212.04089). How lambda is chosen, and what the
safety update is: :mod:`guardrail.train.merge`.
"""

from __future__ import annotations

from guardrail.model.updates import Update
from guardrail.train.merge import Merge
from guardrail.train.merge_math import linear


class Linear(Merge):
    """lambda dW_user + (1 - lambda) / n (dW_1 + ... + dW_n)."""

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> Update:
        """Factors side by side."""
        del name
        others = len(updates) - 1
        return linear(updates, (factor, *[(1.0 - factor) / others] * others))


METHOD = Linear
