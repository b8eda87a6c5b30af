"""Continual-learning methods: one file each, named as in the policy (``der``, ``replay``, ...).

A method module defines ``METHOD``, a subclass of :class:`Method`. It says what it needs and which hyperparameters it
has, and overrides the hooks that it needs. In the order in which the trainer calls them:

    rows            which rows are trained on (the user's; safe_instruct mixes in others)
    begin           once, before the first step, with the LoRA layers in place and still without effect
    user_loss       \
    replay_loss      > at every micro-batch; their sum is minimised, together or in passes of their own
    penalty         /
    after_backward  once an optimiser step, on the whole, unclipped gradient
    after_update    once an optimiser step, when the optimiser has moved
    finish          once, on the saved adapter
    diagnostics     what the record should tell about this run

``state`` and ``load_state`` carry what a method keeps between steps through a checkpoint. Merges
(:mod:`guardrail.train.merge`) are methods that train plainly and work in ``finish``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from guardrail import plugins
from guardrail.errors import InternalError, InvalidInput
from guardrail.model.chat import Encoded
from guardrail.records import Scalar
from guardrail.train.distillation import Project, cross_entropy

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

FAMILY = "guardrail.train.methods"
Gradients = tuple[torch.Tensor, ...]
MethodState = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """The answer tokens of some rows of a micro-batch.

    Args:
        states: the student's final hidden states [tokens, hidden], those that predict the tokens.
        tokens: [tokens].
        total: answer tokens of the whole optimiser step, over all of its micro-batches and processes. Losses are sums
            divided by it: the mean that they state does not depend on how a step is cut.
        teacher: the base's states [tokens, hidden] at the same positions, where the method asked for them.
        places: [tokens], each token's place in its answer, from 0.
    """

    states: torch.Tensor
    tokens: torch.Tensor
    total: int
    teacher: torch.Tensor | None = None
    places: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def cross_entropy(self, project: Project) -> torch.Tensor:
        """Mean negative log-likelihood of the step's answer tokens, in nats (this micro-batch's part of it)."""
        return cross_entropy(self.states, self.tokens, project) / self.total


@dataclass(frozen=True)
class Step:
    """What a micro-batch's loss is made of.

    Args:
        index: the optimiser step, from 0.
        part: which share of the optimiser step this pass is: terms that do not come from rows are multiplied by it, so
            that they count once (0 in the second pass of a micro-batch).
        user: the user's answers; None where the pass is over replay rows alone.
        replay: one entry for each of the method's ``draws``; empty where the pass is over user rows alone.
        project: hidden states to logits.
        gram: gives G = W'W of the output head [hidden, hidden] and the vocabulary size.
        model: the base with its LoRA layers.
    """

    index: int
    part: float
    user: Answers | None
    replay: tuple[Answers, ...]
    project: Project
    gram: Callable[[], tuple[torch.Tensor, int]]
    model: Any = None


@dataclass(frozen=True)
class Setup:
    """What a method may look at before the first step; ``replay`` are rows with the base's own answers."""

    base: BaseModel
    model: Any
    rows: Sequence[Encoded]
    replay: Sequence[Encoded]
    seed: int


@dataclass(frozen=True)
class Score:
    """What the pipeline measured on the *validation* split for a candidate adapter."""

    admissible: bool
    utility: float
    attack_success_rate: float

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sorts scores, the best first: whoever chooses on the validation split (lambda, method, step) ranks by this.

        Admissible before not; of the admissible the more useful, then the lower attack success rate; of the others the
        lower attack success rate, then the more useful.
        """
        if self.admissible:
            return False, -self.utility, self.attack_success_rate
        return True, self.attack_success_rate, -self.utility


Measure = Callable[[Path], Score]
"""Scores a saved adapter; the base is bare when it is called."""
MeasureLive = Callable[[Any], Score]
"""Scores the model with the adapter that is being trained in it."""


@dataclass(frozen=True)
class Sees:
    """Which rows an optimiser step is made of."""

    user: bool = True
    replay: bool = True


class Backward(Protocol):
    """The gradient of an optimiser step: accumulated, summed over processes, not yet clipped."""

    @property
    def parameters(self) -> tuple[torch.nn.Parameter, ...]:
        """The trainable parameters."""

    def gradient(self) -> Gradients:
        """Their gradient, a copy."""

    def set_gradient(self, gradient: Gradients) -> None:
        """Replace it."""

    def replay_gradient(self) -> Gradients:
        """The gradient of the mean negative log-likelihood of this step's replay rows; the other is left alone."""

    def again(self) -> None:
        """Compute the step's gradient again, at the parameters as they are now."""


class Method:
    """Base of every method: plain fine-tuning."""

    needs_replay = False
    needs_measure = False
    draws = 0
    """How many independent draws of replay rows travel with each step's user rows."""
    user_teacher = False
    """Whether the base's states on the user's rows are cached."""
    replay_teacher = False
    """Whether the base's states on the replay rows are cached."""
    plain = False
    """Whether its steps are those of plain fine-tuning, so that rows and settings alone decide the adapter."""
    parts: tuple[str, ...] = ("user",)
    """Which adapters there are, each trained from the base: on the ``user``'s rows, on the ``replay`` rows, or by other
    runs (:func:`given_parts`)."""
    defaults: Mapping[str, Scalar] = MappingProxyType({})
    positive: frozenset[str] = frozenset()
    """Hyperparameters without which the method would be plain fine-tuning under another name."""

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        self.hyperparameters = self._checked(hyperparameters)

    def merge_with(self, adapters: int) -> None:
        """Merge this many adapters of other runs; only merges can.

        Raises:
            InvalidInput: the method cannot, or not so many.
        """
        raise InvalidInput(
            f"method {self.name} merges no adapters of other runs, but {adapters} given with --adapter",
            expected="a merge of several adapters: linear, magmax, ties, dare, slerp",
            next_step="choose one of these with --method, or leave --adapter out",
        )

    def rows(self, user: Sequence[Encoded], replay: Sequence[Encoded], seed: int) -> list[Encoded]:
        """The rows that are trained on; here the user's."""
        del replay, seed
        return list(user)

    def begin(self, setup: Setup) -> None:
        """Before the first step."""

    def inputs(self) -> dict[str, str]:
        """Digests of files that the method reads besides rows and replay, by hyperparameter: other files, another run.

        Raises:
            InvalidInput: they cannot be read.
        """
        return {}

    def sees(self, index: int) -> Sees:
        """Which rows optimiser step ``index`` is made of; here user rows and every draw of replay rows."""
        del index
        return Sees(replay=self.draws > 0)

    def loss(self, step: Step) -> torch.Tensor:
        """Everything that the step holds."""
        parts = list(self.losses(step))
        if not parts:
            raise InternalError(f"{self.name} makes no loss of a step")
        return torch.stack(parts).sum()

    def losses(self, step: Step) -> Iterator[torch.Tensor]:
        """The terms of the loss, those that the step has rows for."""
        if step.user is not None:
            yield self.user_loss(step, step.user)
        if step.replay:
            yield self.replay_loss(step)
        if step.part and (penalty := self.penalty(step)) is not None:
            yield penalty * step.part

    def user_loss(self, step: Step, user: Answers) -> torch.Tensor:
        """Of the user's rows: mean negative log-likelihood of the answer tokens."""
        return user.cross_entropy(step.project)

    def replay_loss(self, step: Step) -> torch.Tensor:
        """Of the replay rows, where ``draws`` says that there are some."""
        del step
        raise InternalError(f"{self.name} makes no loss of replay rows")

    def penalty(self, step: Step) -> torch.Tensor | None:
        """Of the parameters alone, once an optimiser step."""
        del step
        return None

    def after_backward(self, backward: Backward) -> None:
        """On the step's whole gradient, before it is clipped."""

    def after_update(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """When the optimiser has moved the parameters."""

    def finish(self, adapter: Path, parts: Mapping[str, Path], measure: Measure | None) -> dict[str, Scalar]:
        """Work on the saved adapter, in place; returns what was chosen, for the record.

        Args:
            adapter: the adapter trained on the user's rows.
            parts: every trained adapter by the name of its part, ``user`` included.
            measure: scores a candidate on the validation split.
        """
        del adapter, parts, measure
        return {}

    def diagnostics(self) -> dict[str, Scalar]:
        """What happened in this run, for the record."""
        return {}

    def state(self) -> MethodState:
        """What the method keeps between steps."""
        return {}

    def load_state(self, state: MethodState) -> None:
        """Go on from :meth:`state`."""
        if state:
            raise InternalError(f"{self.name} keeps no state, but a checkpoint holds some")

    @property
    def name(self) -> str:
        """As in the policy."""
        return type(self).__module__.rpartition(".")[2]

    def number(self, key: str) -> float:
        """A numeric hyperparameter."""
        return float(self.hyperparameters[key])

    def _checked(self, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {**self.defaults, **{key: self._value(key, value) for key, value in given.items()}}

    def _value(self, key: str, value: Scalar) -> Scalar:
        """A hyperparameter as the method takes it."""
        if key not in self.defaults:
            raise InvalidInput(
                f"method {self.name} has no hyperparameter {key!r}",
                expected="one of " + ", ".join(self.defaults) if self.defaults else "none",
                next_step=plugins.suggestion(key, tuple(self.defaults)),
            )
        if isinstance(self.defaults[key], str):
            return value if isinstance(value, str) else f"{value:g}"  # a list of one number reads like a number
        if isinstance(value, str):
            raise InvalidInput(f"{self.name}: {key}={value!r}", expected=f"a value like {self.defaults[key]!r}")
        if not (0 < value < inf or (value == 0 and key not in self.positive)):
            least = "above 0" if key in self.positive else "of at least 0"
            raise InvalidInput(f"{self.name}: {key}={value}", expected=f"a number {least}")
        return value


def teacher_of(answers: Answers) -> torch.Tensor:
    """The base's states, which the method asked for."""
    if answers.teacher is None:
        raise InternalError("a method that compares with the base was given no teacher states")
    return answers.teacher


def given_parts(adapters: int) -> tuple[str, ...]:
    """The names of the parts that are adapters of other runs, in the order in which they were given."""
    return tuple(f"adapter-{number}" for number in range(1, adapters + 1))


def create(name: str, hyperparameters: Mapping[str, Scalar], adapters: int = 0) -> Method:
    """The method called ``name`` with its hyperparameters checked.

    Args:
        adapters: how many adapters of other runs it is to merge.

    Raises:
        InvalidInput: unknown method or hyperparameter, a value out of range, or adapters that it cannot merge.
    """
    method: Method = plugins.load(FAMILY, name).METHOD(hyperparameters)
    if adapters:
        method.merge_with(adapters)
    return method
