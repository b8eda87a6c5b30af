"""Continual-learning methods: one file each, named as in the policy (``der``, ``replay``, ...).

A method module defines ``METHOD``, a subclass of :class:`Method`. It says what it needs, which hyperparameters it
has, and how a step's loss is made from what the trainer hands it. A method that also works on the finished adapter
(WiSE-FT scales it) overrides ``finish``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812

from guardrail import plugins
from guardrail.errors import InvalidInput
from guardrail.records import Scalar

FAMILY = "guardrail.train.methods"
Project = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """The answer tokens of some rows: student states [tokens, hidden] and tokens [tokens]."""

    states: torch.Tensor
    tokens: torch.Tensor

    def cross_entropy(self, project: Project) -> torch.Tensor:
        """Mean negative log-likelihood over answer tokens, in nats."""
        return F.cross_entropy(project(self.states).float(), self.tokens)


@dataclass(frozen=True)
class Step:
    """What a step's loss is made of; ``replay`` and ``teacher`` [tokens, hidden] only where the method replays.

    ``gram()`` gives G = W'W of the output head [hidden, hidden] and the vocabulary size.
    """

    user: Answers
    replay: Answers | None
    teacher: torch.Tensor | None
    project: Project
    gram: Callable[[], tuple[torch.Tensor, int]]


@dataclass(frozen=True)
class Score:
    """What the pipeline measured on the *validation* split for a candidate adapter."""

    admissible: bool
    utility: float
    attack_success_rate: float


Measure = Callable[[Path], Score]


class Method:
    """Base of every method."""

    needs_replay = False
    needs_measure = False
    defaults: Mapping[str, Scalar] = MappingProxyType({})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        self.hyperparameters = self._checked(hyperparameters)

    def loss(self, step: Step) -> torch.Tensor:
        """The scalar to minimise at a step; here plain completion-only cross-entropy on the user's rows."""
        return step.user.cross_entropy(step.project)

    def finish(self, adapter: Path, measure: Measure | None) -> dict[str, Scalar]:
        """Work on the saved adapter, in place; returns what was chosen, for the record."""
        del adapter, measure
        return {}

    def _checked(self, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        name = type(self).__module__.rpartition(".")[2]
        for key, value in given.items():
            if key not in self.defaults:
                raise InvalidInput(
                    f"method {name} has no hyperparameter {key!r}",
                    expected="one of " + ", ".join(self.defaults) if self.defaults else "none",
                    next_step=plugins.suggestion(key, tuple(self.defaults)),
                )
            if isinstance(value, str) != isinstance(self.defaults[key], str):
                raise InvalidInput(f"{name}: {key}={value!r}", expected=f"a value like {self.defaults[key]!r}")
        return {**self.defaults, **given}

    def number(self, key: str) -> float:
        """A numeric hyperparameter."""
        return float(self.hyperparameters[key])


def create(name: str, hyperparameters: Mapping[str, Scalar]) -> Method:
    """The method called ``name`` with its hyperparameters checked.

    Raises:
        InvalidInput: unknown method or hyperparameter, or a value out of range.
    """
    method: Method = plugins.load(FAMILY, name).METHOD(hyperparameters)
    return method
