"""DARE: drop entries of both updates at random, rescale the others, add them up; times lambda.

dW(lambda) = lambda (drop(dW_user) + drop(dW_safety)), stored by truncated SVD. Each entry is dropped with probability
``drop`` and the others are divided by 1 - drop. Draws depend on the run's seed and the module's name only. Source: Yu
et al., "Language Models are Super Mario", ICML 2024 (arXiv 2311.03099). A random mask has full rank, so truncation
takes much of it back: the record tells the error. How lambda is chosen, and what the safety update is:
:mod:`guardrail.train.merge`.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.evidence.digest import sha256
from guardrail.model.updates import Update
from guardrail.train.merge import Merge
from guardrail.train.merging import dare


class Dare(Merge):
    """lambda (drop(dW_user) + drop(dW_safety))."""

    defaults = MappingProxyType({**Merge.defaults, "drop": 0.5})

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> torch.Tensor:
        """Drop, rescale, add."""
        dense = [update.dense for update in updates]
        seed = int(sha256(f"dare {self._seed} {name}".encode())[:15], 16)
        draws = torch.Generator().manual_seed(seed)
        return factor * dare(dense, [1.0] * len(dense), self.number("drop"), draws)


METHOD = Dare
