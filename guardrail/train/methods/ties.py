"""TIES-Merging: trim every update to its largest entries, elect a sign per entry, average what agrees; times lambda.

dW(lambda) = lambda ties(dW_user, dW_1, ..., dW_n), with equal weights, stored by truncated SVD; the others are
adapters of other runs, or the safety update where none is given. ``density`` is the share of entries that each update
keeps *in each matrix*; the paper trims all matrices as one vector, so that a matrix of small entries may lose all of
them. Source: Yadav et al., "TIES-Merging", NeurIPS 2023 (arXiv 2306.01708), which keeps 20%. How lambda is chosen, and
what the safety update is: :mod:`guardrail.train.merge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.model.updates import Update
from guardrail.records import Scalar
from guardrail.train.merge import Merge
from guardrail.train.merge_math import ties


class Ties(Merge):
    """lambda ties(dW_user, dW_1, ..., dW_n)."""

    scales = True
    defaults = MappingProxyType({**Merge.defaults, "density": 0.2})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if not 0 < self.number("density") <= 1:
            raise InvalidInput(f"ties: density={self.number('density')}", expected="a share in (0, 1]")

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> torch.Tensor:
        """Trim, elect, average."""
        del name
        dense = [update.dense for update in updates]
        return factor * ties(dense, [1.0] * len(dense), self.number("density"))


METHOD = Ties
