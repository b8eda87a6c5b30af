"""MagMax: in every entry the update of largest magnitude, of the user's and the others', scaled by lambda.

dW(lambda) = lambda magmax(dW_user, dW_1, ..., dW_n), stored by truncated SVD; the others are adapters of other runs, or
the safety update where none is given. Source: Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual
Learning", ECCV 2024 (arXiv 2407.06322), which takes lambda = 0.5. There each task goes on from the model of the task
before; here every update is from the base, the paper's independent fine-tuning. How lambda is chosen, and what the
safety update is: :mod:`guardrail.train.merge`.
"""

from __future__ import annotations

import torch

from guardrail.model.updates import Update
from guardrail.train.merge import Merge
from guardrail.train.merge_math import magmax


class Magmax(Merge):
    """lambda magmax(dW_user, dW_1, ..., dW_n)."""

    scales = True

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> torch.Tensor:
        """Entry by entry."""
        del name
        return factor * magmax([update.dense for update in updates])


METHOD = Magmax
