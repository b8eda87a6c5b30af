"""SLERP: from the other update (lambda = 0) to the user's (lambda = 1) along the arc between their directions.

The other is the adapter of one other run, or the safety update where none is given; an arc has two ends, so a second
other run is refused. Each matrix is read as one vector; the norm is interpolated linearly; stored by truncated SVD.
Source: Shoemake, SIGGRAPH 1985; its use on weights is that of model merging tools (mergekit, Goddard et al., 2024,
arXiv 2403.13257). How lambda is chosen, and what the safety update is: :mod:`guardrail.train.merge`.
"""

from __future__ import annotations

import torch

from guardrail.model.updates import Update
from guardrail.train.merge import Merge
from guardrail.train.merge_math import slerp


class Slerp(Merge):
    """slerp(dW_other, dW_user, lambda)."""

    most_adapters = 1

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> torch.Tensor:
        """Along the arc."""
        del name
        user, other = updates
        return slerp(other.dense, user.dense, factor)


METHOD = Slerp
