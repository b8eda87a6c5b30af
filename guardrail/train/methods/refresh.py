"""Refresh learning: before each step unlearn a little, by a preconditioned move up the gradient, then learn by DER++.

theta' = theta + gamma g / (F + damping), g the gradient of the DER++ loss at theta (accumulated, over all processes,
before clipping); then Adam takes the step from theta' with the gradient of the same loss at theta'. F is a running
average of squared gradients, relative to its mean, so that gamma has a scale that does not depend on the model.

Source: Wang et al., "A Unified and General Framework for Continual Learning", ICLR 2024 (arXiv 2403.13249); one
unlearning step, without its Gaussian noise. Each step costs two forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.records import Scalar
from guardrail.train.methods import Backward, State
from guardrail.train.methods.derpp import Derpp
from guardrail.train.projection import ascent, average_squares


class Refresh(Derpp):
    """Unlearn, then L = CE(user) + alpha D(teacher, student) + beta CE(replay)."""

    defaults = MappingProxyType({**Derpp.defaults, "gamma": 1e-3, "damping": 1.0, "decay": 0.9})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if not (self.number("gamma") >= 0 and self.number("damping") > 0 and 0 <= self.number("decay") < 1):
            raise InvalidInput(f"refresh: {self.hyperparameters}",
                               expected="gamma of at least 0, damping above 0, decay in [0, 1)")  # fmt: skip
        self._squares: tuple[torch.Tensor, ...] = ()

    def after_backward(self, backward: Backward) -> None:
        """Move up, and take the gradient there."""
        gradient = backward.gradient()
        self._squares = average_squares(self._squares, gradient, self.number("decay"))
        change = ascent(gradient, self._squares, self.number("gamma"), self.number("damping"))
        with torch.no_grad():
            for parameter, upwards in zip(backward.parameters, change, strict=True):
                parameter.add_(upwards)
        backward.again()

    def state(self) -> State:
        """The running average."""
        return {f"squares.{i}": square for i, square in enumerate(self._squares)}

    def load_state(self, state: State) -> None:
        """Go on from :meth:`state`."""
        self._squares = tuple(state[f"squares.{i}"] for i in range(len(state)))


METHOD = Refresh
