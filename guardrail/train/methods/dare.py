"""DARE: drop entries of every update at random, rescale the kept ones, add them up; times lambda.

dW(lambda) = lambda (drop(dW_user) + drop(dW_1) + ... + drop(dW_n)), stored by truncated SVD; the others are adapters
of other runs, or the safety update where none is given. Each entry is dropped with probability ``drop`` and the kept
ones are divided by 1 - drop. The sum grows with n: lambda = 1 / (n + 1) makes it the mean. Draws depend on the run's
seed and the module's name only. Source: Yu et al., "Language Models are Super Mario", ICML 2024 (arXiv 2311.03099); the
default of 0.2 is that of its published examples for merging decoder models. A random mask has full rank, so truncation
takes much of it back: the record tells the error. How lambda is chosen, and what the safety update is:
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
from guardrail.train.merge_math import dare


class Dare(Merge):
    """lambda (drop(dW_user) + drop(dW_1) + ... + drop(dW_n))."""

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
