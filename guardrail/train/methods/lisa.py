"""Lisa: alternate between stretches of steps on user rows and on safety rows, each held near where it started.

L = CE(rows of the stretch) + rho / 2 * ||theta - theta_start||^2 over the adapter's parameters, theta_start being where
the last stretch ended. A stretch is ``user_steps`` or ``safety_steps`` optimiser steps long; user rows that fall into a
safety stretch are not trained on, so that the number of steps stays that of the other methods.

Source: Huang et al., "Lisa: Lazy Safety Alignment for Large Language Models against Harmful Fine-tuning Attack",
NeurIPS 2024 (arXiv 2405.18641), which takes rho = 1 and 100 and 900 steps of 1,000; here shorter stretches of the same
kind, because an epoch may be shorter than 100 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.records import Scalar
from guardrail.train.methods import Method, MethodState, Sees, Setup, Step


class Lisa(Method):
    """L = CE(user or replay) + rho / 2 ||theta - theta_start||^2."""

    needs_replay = True
    draws = 1
    defaults = MappingProxyType({"rho": 1.0, "user_steps": 9.0, "safety_steps": 1.0})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._stretches = tuple(self._whole(key) for key in ("safety_steps", "user_steps"))
        self._start: tuple[torch.Tensor, ...] = ()
        self._parameters: tuple[torch.nn.Parameter, ...] = ()
        self._done = 0

    def begin(self, setup: Setup) -> None:
        """Start where the adapter starts."""
        self._parameters = tuple(p for p in setup.model.parameters() if p.requires_grad)
        self._start, self._done = _copies(self._parameters), 0

    def sees(self, index: int) -> Sees:
        """Safety rows first, then the user's, then again."""
        safety = index % sum(self._stretches) < self._stretches[0]
        return Sees(user=not safety, replay=safety)

    def replay_loss(self, step: Step) -> torch.Tensor:
        """CE of a safety stretch."""
        return step.replay[0].cross_entropy(step.project)

    def penalty(self, step: Step) -> torch.Tensor:
        """rho / 2 ||theta - theta_start||^2."""
        del step
        squares = [(p - s).square().sum() for p, s in zip(self._parameters, self._start, strict=True)]
        return self.number("rho") / 2 * torch.stack(squares).sum()

    def after_update(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Where a stretch ends, the next one starts."""
        self._done += 1
        if self._done % sum(self._stretches) in (0, self._stretches[0]):
            self._start = _copies(parameters)

    def state(self) -> MethodState:
        """Where the stretch started, and how many steps are done."""
        return {"done": torch.tensor(self._done), **{f"start.{i}": start for i, start in enumerate(self._start)}}

    def load_state(self, state: MethodState) -> None:
        """Go on from :meth:`state`."""
        self._done = int(state["done"])
        device = self._start[0].device
        self._start = tuple(state[f"start.{i}"].to(device) for i in range(len(self._start)))

    def _whole(self, key: str) -> int:
        value = self.number(key)
        if value < 1 or value != int(value):
            raise InvalidInput(f"lisa: {key}={value}", expected="a whole number of steps, at least 1")
        return int(value)


def _copies(parameters: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(parameter.detach().clone() for parameter in parameters)


METHOD = Lisa
