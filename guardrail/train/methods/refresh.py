"""Refresh learning: before each step unlearn a little, by a preconditioned move up the gradient, then learn by DER++.

theta' = theta + gamma * ||last step|| * d / ||d|| with d = g / (F + damping), g the gradient of the DER++ loss at
theta (accumulated, over all processes, before clipping); then Adam takes the step from theta' with the gradient of the
same loss at theta'. F is a running average of squared gradients, relative to its mean. ``last step`` is what the
optimiser last moved the parameters by: gamma is the share of a step that is unlearned, whatever the model, the learning
rate and the schedule, and it must be below 1, from where unlearning outruns learning. Before the first step nothing is
unlearned.

The scale is ours. The source's formula, gamma g / F, depends on the scale of the loss; its published code moves every
tensor by 1e-5 of its own norm instead, which says nothing about a lora_B that starts at 0.

Source: Wang et al., "A Unified and General Framework for Continual Learning", ICLR 2024 (arXiv 2403.13249); one
unlearning step, on the whole loss (in their code: on the user's rows alone), without its Gaussian noise. Each step
costs two forward and backward passes, and memory for a copy of the adapter and of its squared gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.records import Scalar
from guardrail.train.gradient_projection import ascent, average_squares, norm
from guardrail.train.methods import Backward, Gradients, MethodState
from guardrail.train.methods.derpp import Derpp


class Refresh(Derpp):
    """Unlearn, then L = CE(user) + alpha D(teacher, student) + beta CE(replay)."""

    defaults = MappingProxyType({**Derpp.defaults, "gamma": 0.1, "damping": 1.0, "decay": 0.9})
    positive = Derpp.positive | {"gamma"}

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if not (self.number("gamma") < 1 and self.number("damping") > 0 and 0 <= self.number("decay") < 1):
            raise InvalidInput(
                f"refresh: {self.hyperparameters}", expected="gamma in (0, 1), damping above 0, decay in [0, 1)"
            )
        self._squares: tuple[torch.Tensor, ...] = ()
        self._length = 0.0  # of the optimiser's last step
        self._before: Gradients = ()

    def after_backward(self, backward: Backward) -> None:
        """Move up, and take the gradient there."""
        gradient = backward.gradient()
        self._squares = average_squares(self._squares, gradient, self.number("decay"))
        change = ascent(gradient, self._squares, self.number("gamma") * self._length, self.number("damping"))
        with torch.no_grad():
            for parameter, upwards in zip(backward.parameters, change, strict=True):
                parameter.add_(upwards)
        backward.again()
        self._before = tuple(parameter.detach().clone() for parameter in backward.parameters)

    def after_update(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Measure the optimiser's step."""
        self._length = norm([new.detach() - old for new, old in zip(parameters, self._before, strict=True)])

    def state(self) -> MethodState:
        """The running average, and the length of the last step."""
        squares = {f"squares.{i}": square for i, square in enumerate(self._squares)}
        return {"length": torch.tensor(self._length, dtype=torch.float64), **squares}

    def load_state(self, state: MethodState) -> None:
        """Go on from :meth:`state`; the squares follow the gradient to its device."""
        self._length = float(state["length"])
        self._squares = tuple(state[f"squares.{i}"] for i in range(len(state) - 1))


METHOD = Refresh
