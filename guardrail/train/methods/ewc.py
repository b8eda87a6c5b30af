"""Elastic weight consolidation: changing a weight costs the more, the more the base's safety answers depend on it.

L = CE(user) + lambda / 2 * sum F dW^2 over all entries of all adapted matrices, dW = s B A. F is the diagonal of the
Fisher information of the *base's* weights on the replay rows, mean of per-row squared gradients with labels drawn
from the base, divided by its mean over all entries, so that lambda does not depend on the model's scale. It is taken
on dW and not on A and B, whose Fisher at B = 0 is 0 for every A and protects nothing (:mod:`guardrail.train.fisher`).
The rows are only read once, before training: nothing is replayed.

Value and gradient are computed in closed form, layer by layer and once an optimiser step, however many micro-batches
it has. Memory, on the base's device: four bytes for each adapted weight, all the time (eight for a float64 base);
while a step's penalty is computed, one matrix more of the largest layer; for the rest of the step a copy of the
adapter. While F is taken, before training: the same four bytes, up to 256 MiB of per-row gradients (one row's of a
layer that is larger than that), and one matrix more.

Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017 (arXiv 1612.00796).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from guardrail.errors import InternalError
from guardrail.records import Scalar
from guardrail.train.fisher import diagonal_fisher, lora_updates, relative
from guardrail.train.methods import Method, MethodState, Setup, Step
from guardrail.train.penalty import Penalty, quadratic_penalty


class Ewc(Method):
    """L = CE(user) + lambda / 2 sum F dW^2."""

    needs_replay = True
    defaults = MappingProxyType({"lambda": 10.0})
    positive = frozenset({"lambda"})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._fisher: Mapping[str, torch.Tensor] = {}
        self._penalty: Penalty | None = None

    def begin(self, setup: Setup) -> None:
        """Take the Fisher information of the base."""
        draws = torch.Generator().manual_seed(setup.seed)
        self._fisher = relative(diagonal_fisher(setup.base, setup.model, setup.replay, generator=draws))

    def penalty(self, step: Step) -> torch.Tensor:
        """lambda / 2 sum F dW^2; the same for every micro-batch until the parameters have moved."""
        if not self._fisher:
            raise InternalError("ewc was not told to begin")
        if self._penalty is None:
            self._penalty = quadratic_penalty(self._fisher, lora_updates(step.model))
        return self.number("lambda") * self._penalty.differentiable()

    def after_update(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """The next step's penalty is another one."""
        del parameters
        self._penalty = None

    def load_state(self, state: MethodState) -> None:
        """Nothing is kept between steps, but a run that goes back has moved its parameters."""
        super().load_state(state)
        self._penalty = None


METHOD = Ewc
