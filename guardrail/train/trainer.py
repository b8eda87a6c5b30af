"""The one subclass of transformers.Trainer: every method's step over user and replay rows.

User and replay rows go through the body in one forward pass (or in two, with a backward each, where memory is short);
only positions that predict an answer token are projected to the vocabulary. Losses are sums over the micro-batch
divided by the answer tokens of the whole optimiser step, so that accumulation and several processes give the gradient
of one large batch. A loss that is not finite stops the run and names step and rows.

Not covered: which rows a run is validated on and when it stops (:mod:`guardrail.train.early_stopping`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from guardrail.atomic import write_by
from guardrail.errors import InternalError
from guardrail.model.chat import Encoded
from guardrail.model.head import logit_scale, project
from guardrail.model.load import BaseModel
from guardrail.train.collate import Batch, join, pad
from guardrail.train.distillation import gram_matrix
from guardrail.train.methods import Answers, Gradients, Method, Sees, Step
from guardrail.train.packing import pack
from guardrail.train.replay import ReplayRows
from guardrail.train.student import Student
from guardrail.train.teacher import TeacherStates

WEIGHTS, METHOD = "adapter.safetensors", "method.safetensors"
NOTHING = Encoded((0,), ())
"""A row without an answer, for a pass that has no rows: every process takes part in every pass."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast. ``batch_size`` is user rows per optimiser step, over micro-batches and processes;
    ``packing`` is how many tokens of rows share a sequence at most (0: each row has its own). ``validate_steps`` and
    ``patience``: see :mod:`guardrail.train.early_stopping`."""

    epochs: float = 3.0
    batch_size: int = 16
    learning_rate: float = 2e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    replay_share: float = 1.0
    seed: int = 0
    accumulation: int = 1
    passes: str = "joint"
    packing: int = 0
    gradient_checkpointing: bool = False
    checkpoint_steps: int = 100
    validate_steps: int = 0
    patience: int = 3


@dataclass(frozen=True)
class Piece:
    """A micro-batch: numbers of user rows, and of replay rows for each draw."""

    user: tuple[int, ...]
    replay: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Buffers:
    """The rows of a run, and what the teacher says on them."""

    user: Sequence[Encoded]
    replay: ReplayRows | None = None
    user_teacher: TeacherStates | None = None
    replay_teacher: TeacherStates | None = None

    @property
    def replayed(self) -> ReplayRows:
        """The replay buffer, where rows were drawn from it."""
        if self.replay is None:
            raise InternalError("replay rows were drawn, but there is no replay buffer")
        return self.replay


class MethodTrainer(Trainer):
    """transformers.Trainer whose step is a method's."""

    def __init__(
        self, *, base: BaseModel, student: Student, method: Method, buffers: Buffers, settings: Settings, **kwargs: Any
    ) -> None:
        super().__init__(model=student, **kwargs)
        self.base, self.method, self.buffers, self.settings = base, method, buffers, settings
        self.student, self.trained = student, tuple(student.trained().values())
        self._gram: tuple[torch.Tensor, int] | None = None
        self.pieces: list[Piece] = []
        self._totals: tuple[int, ...] = ()
        self._losses_seen: list[tuple[torch.Tensor, Piece]] = []

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:
        """The micro-batches of an optimiser step; what each replays, and how many answer tokens the step has."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = (self._once(tuple(inputs["rows"]), number) for number, inputs in enumerate(samples))
        self.pieces = [self._piece(user, number) for number, user in enumerate(rows)]
        self._totals, self._losses_seen = self._count(), []
        return list(self.pieces), None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-batch; returns its part of the loss (times the number of processes)."""
        del num_items_in_batch
        if not model.training:  # walks every module of the base
            model.train()
        return self.backward(model, inputs)

    def backward(self, model: Any, piece: Piece) -> torch.Tensor:
        """Add the gradient of a micro-batch, in one pass or two; returns its loss."""
        total = torch.zeros((), device=self.base.device)
        for loss in self._losses(model, piece):
            scaled = loss * self.accelerator.num_processes  # processes average their gradients; a step is a sum
            self.accelerator.backward(scaled)
            total += scaled.detach()
        self._losses_seen.append((total, piece))
        return total

    def replay_backward(self, model: Any, piece: Piece) -> None:
        """Add the gradient of the mean negative log-likelihood of a micro-batch's first draw of replay rows."""
        none, replay = self._answers(model, piece, Sees(user=False))
        answers = replay[0] if replay else none
        if answers is not None:
            loss = answers.cross_entropy(self._project) * self.accelerator.num_processes
            self.accelerator.backward(loss)

    def _clip_grad_norm(self, model: Any) -> Any:
        """The method's turn on the whole gradient, then clipping; the only place of a step that waits for the device.

        Raises:
            InternalError: the gradient is not finite; the parameters have not moved yet.
        """
        if type(self.method).after_backward is not Method.after_backward:
            self.method.after_backward(StepGradient(self, model))
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise self._not_finite(float(norm))
        return norm

    def tokens(self, *, since_resumed: bool = False) -> int:
        """Tokens that went through the body, in all processes: of the whole run, or since it was resumed."""
        before = self._initial_num_input_tokens_seen if since_resumed else 0
        seen = torch.tensor(self.state.num_input_tokens_seen - before, device=self.base.device)
        return int(self.accelerator.reduce(seen, "sum"))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: what a step costs is measured in ``benchmarks/training_speed.py``."""
        del inputs
        return 0

    def _losses(self, model: Any, piece: Piece) -> Iterator[torch.Tensor]:
        sees, part = self.method.sees(self.state.global_step), 1.0 / (len(self.pieces) * self.accelerator.num_processes)
        both = sees.user and sees.replay
        passes = [Sees(replay=False), Sees(user=False)] if both and self.settings.passes == "separate" else [sees]
        for number, one in enumerate(passes):
            user, replay = self._answers(model, piece, one)
            step = Step(
                self.state.global_step,
                0.0 if number else part,
                user,
                replay,
                self._project,
                self._grammar,
                self.base.model,
            )
            yield self.method.loss(step)

    def _answers(self, model: Any, piece: Piece, sees: Sees) -> tuple[Answers | None, tuple[Answers, ...]]:
        """The answers of the rows that a pass sees, through one forward pass; of no user rows where it sees none."""
        draws = [rows for rows in piece.replay if rows] if sees.replay else []
        user = [piece.user if sees.user else ()] if sees.user or not draws else []
        batches = [self._user_batch(rows) for rows in user] + [self._replay_batch(rows) for rows in draws]
        joint = batches[0]
        for batch in batches[1:]:
            joint = join(joint, batch)
        states = self._states(model, joint)
        counts = [int((batch.targets != -100).sum()) for batch in batches]
        self.state.num_input_tokens_seen += int(joint.mask.sum()) if any(counts) else 0
        tokens, places = (
            found.to(self.base.device).split(counts) for found in (joint.answer_tokens(), joint.answer_places())
        )
        teachers = [self._teacher(self.buffers.user_teacher, rows) for rows in user]
        teachers += [self._teacher(self.buffers.replay_teacher, rows) for rows in draws]
        totals = self._totals[:1] * len(user) + self._totals[1:] * bool(draws)
        answers = tuple(map(Answers, states.split(counts), tokens, totals, teachers, places))
        return (answers[0], answers[1:]) if user else (None, answers)

    def _states(self, model: Any, batch: Batch) -> torch.Tensor:
        """The states [answer tokens, hidden] that predict an answer token, in the order of the batch, packed or not."""
        limit = self.settings.packing
        form = pack(batch, limit) if limit else batch
        reads = form.reads.to(self.base.device)  # found before the move: a device would have to be waited for
        hidden: torch.Tensor = model(*form.to(self.base.device).inputs)
        return hidden.flatten(0, 1)[reads]

    def _once(self, rows: tuple[int, ...], number: int) -> tuple[int, ...]:
        """A micro-batch's rows without those that accelerate repeats where rows do not fill an epoch's last step."""
        settings, count = self.settings, len(self.buffers.user)
        step = self.state.global_step % -(-count // settings.batch_size)
        place = (step * settings.accumulation + number) * self.accelerator.num_processes
        each = settings.batch_size // (settings.accumulation * self.accelerator.num_processes)
        return rows[: max(0, count - each * (place + self.accelerator.process_index))]

    def _piece(self, user: tuple[int, ...], number: int) -> Piece:
        """Which replay rows go with these user rows: a slice of what the whole step draws."""
        replay, settings, draws = self.buffers.replay, self.settings, max(self.method.draws, self._one_more())
        if replay is None or not draws:
            return Piece(user, ())
        each = max(1, round(settings.batch_size * settings.replay_share))
        pieces = settings.accumulation * self.accelerator.num_processes
        place = number * self.accelerator.num_processes + self.accelerator.process_index
        first, last = (each * at // pieces for at in (place, place + 1))
        full = max(1, settings.batch_size // pieces)
        count = max(1, round((last - first) * len(user) / full)) if user and last > first else 0
        start = self.state.global_step * each + first
        seed = settings.seed
        return Piece(user, tuple(tuple(replay.draw(start, count, seed=seed, number=n)) for n in range(draws)))

    def _one_more(self) -> int:
        """A method without draws of its own may still ask for the gradient of replay rows."""
        return int(self.method.needs_replay and type(self.method).after_backward is not Method.after_backward)

    def _count(self) -> tuple[int, ...]:
        """Answer tokens of the whole optimiser step: of the user, then of each draw; at least 1."""
        counts = [sum(len(self.buffers.user[row].answer) for piece in self.pieces for row in piece.user)]
        for draw in range(len(self.pieces[0].replay) if self.pieces else 0):
            rows = self.buffers.replayed.rows
            counts.append(sum(len(rows[row].answer) for piece in self.pieces for row in piece.replay[draw]))
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=self.base.device), "sum").tolist()
        return tuple(max(1, count) for count in counts)

    def _user_batch(self, rows: Sequence[int]) -> Batch:
        return pad([self.buffers.user[row] for row in rows] or [NOTHING])

    def _replay_batch(self, rows: Sequence[int]) -> Batch:
        return pad([self.buffers.replayed.rows[row] for row in rows])

    def _teacher(self, teacher: TeacherStates | None, rows: Sequence[int]) -> torch.Tensor | None:
        return None if teacher is None else teacher.of(rows).to(self.base.device)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        return project(self.base.model, hidden)

    def _grammar(self) -> tuple[torch.Tensor, int]:
        if self._gram is None:
            weight = self.base.model.get_output_embeddings().weight
            self._gram = (gram_matrix(weight, logit_scale(self.base.model)), weight.shape[0])
        return self._gram

    def _not_finite(self, norm: float) -> InternalError:
        """Says whose loss it was, where it was one, else names the rows of the whole step (of this process)."""
        bad = [(loss, piece) for loss, piece in self._losses_seen if not bool(torch.isfinite(loss))]
        pieces = [piece for _, piece in bad[:1]] or self.pieces
        found = f"the loss is {float(bad[0][0])}" if bad else f"the gradient's norm is {norm}"
        rows = ", ".join(str(row + 1) for piece in pieces for row in piece.user)
        return InternalError(
            f"{found} at step {self.state.global_step + 1}, on training rows {rows}",
            expected="a finite loss and gradient",
            next_step="look at these rows of data/clean.jsonl, or lower --learning-rate; the last checkpoint is kept",
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter and the method's state; the base is not copied into a checkpoint."""
        del state_dict
        directory = Path(str(output_dir))
        directory.mkdir(parents=True, exist_ok=True)
        trained = {name: value.detach().cpu().contiguous() for name, value in self.student.trained().items()}
        require_finite(trained, self.state.global_step)
        state = {name: value.cpu().contiguous() for name, value in self.method.state().items()}
        write_by(directory / WEIGHTS, lambda file: save_file(trained, file))
        write_by(directory / METHOD, lambda file: save_file(state, file))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        del model
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.student.trained().items():
                parameter.copy_(saved[name])
        self.method.load_state(load_file(Path(resume_from_checkpoint) / METHOD))


def require_finite(trained: Mapping[str, torch.Tensor], step: int) -> None:
    """Refuse to keep an adapter that is not finite.

    Raises:
        InternalError: a tensor holds NaN or infinity.
    """
    bad = [name for name, value in trained.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise InternalError(
            f"{len(bad)} of the adapter's {len(trained)} tensors are not finite after step {step}, such as {bad[0]}",
            expected="finite numbers",
            next_step="lower --learning-rate; the last checkpoint is kept",
        )


class StepGradient:
    """:class:`guardrail.train.methods.Backward` over a trainer's step."""

    def __init__(self, trainer: MethodTrainer, model: Any) -> None:
        self._trainer, self._model = trainer, model
        self.parameters = trainer.trained

    def gradient(self) -> Gradients:
        """A copy of the step's gradient."""
        return tuple(torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.parameters)

    def set_gradient(self, gradient: Gradients) -> None:
        """Replace the step's gradient."""
        for parameter, value in zip(self.parameters, gradient, strict=True):
            parameter.grad = value

    def replay_gradient(self) -> Gradients:
        """The gradient of this step's replay rows; the step's own is left alone."""
        own = self.gradient()
        self._run(self._trainer.replay_backward)
        found = self.gradient()
        self.set_gradient(own)
        return found

    def again(self) -> None:
        """Compute the step's gradient again, at the parameters as they are now."""
        self._run(self._trainer.backward)

    def _run(self, backward: Any) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        pieces = self._trainer.pieces
        for number, piece in enumerate(pieces, start=1):
            with self._synchronised(number == len(pieces)):
                backward(self._model, piece)

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._trainer.accelerator.no_sync(model=self._model)
