"""DARE: drop entries of both updates at random, rescale the others, add them up; times lambda.

dW(lambda) = lambda (drop(dW_user) + drop(dW_safety)), stored by truncated SVD. Each entry is dropped with probability
``drop`` and the others are divided by 1 - drop. Draws depend on the run's seed and the module's name only. Source: Yu
et al., "Language Models are Super Mario", ICML 2024 (arXiv 2311.03099); the default of 0.2 is that of its published
examples for merging decoder models. A random mask has full rank, so truncation takes much of it back: the record tells
the error. How lambda is chosen, and what the safety update is:
:mod:`guardrail.train.merge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import sha256
from guardrail.model.updates import Update
from guardrail.records import Scalar
from guardrail.train.merge import Merge
from guardrail.train.merging import dare


class Dare(Merge):
    """lambda (drop(dW_user) + drop(dW_safety))."""

    scales = True
    defaults = MappingProxyType({**Merge.defaults, "drop": 0.2})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if not self.number("drop") < 1:
            raise InvalidInput(f"dare: drop={self.number('drop')}", expected="a probability in [0, 1)")

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> torch.Tensor:
        """Drop, rescale, add."""
        dense = [update.dense for update in updates]
        seed = int(sha256(f"dare {self._seed} {name}".encode())[:15], 16)
        draws = torch.Generator().manual_seed(seed)
        return factor * dare(dense, [1.0] * len(dense), self.number("drop"), draws)


METHOD = Dare
