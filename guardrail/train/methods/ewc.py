"""Elastic weight consolidation: changing a weight costs the more, the more the base's safety answers depend on it.

L = CE(user) + lambda / 2 * sum F dW^2 over all entries of all adapted matrices, dW = s B A. F is the diagonal of the
Fisher information of the *base's* weights on the replay rows, mean of per-row squared gradients with labels drawn
from the base, divided by its mean over all entries, so that lambda does not depend on the model's scale. It is taken
on dW and not on A and B, whose Fisher at B = 0 is 0 for every A and protects nothing (:mod:`guardrail.train.fisher`).
The rows are only read once, before training: nothing is replayed.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017 (arXiv 1612.00796).
Memory: four bytes for each adapted weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from guardrail.errors import InternalError
from guardrail.records import Scalar
from guardrail.train.fisher import diagonal_fisher, lora_updates, quadratic_penalty, relative
from guardrail.train.methods import Method, Setup, Step


class Ewc(Method):
    """L = CE(user) + lambda / 2 sum F dW^2."""

    needs_replay = True
    defaults = MappingProxyType({"lambda": 10.0})
    positive = frozenset({"lambda"})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._fisher: dict[str, torch.Tensor] = {}

    def begin(self, setup: Setup) -> None:
        """Take the Fisher information of the base."""
        draws = torch.Generator().manual_seed(setup.seed)
        self._fisher = relative(diagonal_fisher(setup.base, setup.model, setup.replay, generator=draws))

    def penalty(self, step: Step) -> torch.Tensor:
        """lambda / 2 sum F dW^2."""
        if not self._fisher:
            raise InternalError("ewc was not told to begin")
        return self.number("lambda") * quadratic_penalty(self._fisher, lora_updates(step.model))


METHOD = Ewc
