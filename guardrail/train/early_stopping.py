"""Early stopping: validate while training, keep the best adapter, stop when it does not get better any more.

Every ``validate_steps`` optimiser steps, and at the last one, the live model (LoRA in place, in evaluation mode) is
scored on the *validation* split by a callable that the pipeline hands in; the gate suite is never looked at. Scores
are ranked as merges and ``--method auto`` rank candidates (:attr:`guardrail.train.methods.Score.rank`): admissible
first, then the more useful, then the lower attack success rate; a score that is only as good as the best does not beat
it. Training stops when ``patience`` validations in a row did not beat the best, and the adapter that is kept is the
best one, not the last (Prechelt, 1998, *Early Stopping - But When?*, with this rank in place of the validation loss).

What is known (best score, since when, the best adapter's weights) travels in the checkpoint. With several processes the
first one measures and all are told the score, so that all stop at the same step.

Not covered: methods that make their adapter after training (merges, Safe LoRA), which are refused: what would be
validated is not what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from guardrail.atomic import write_atomically, write_by
from guardrail.errors import InternalError, InvalidInput
from guardrail.records import Scalar
from guardrail.train import processes
from guardrail.train.methods import Method, Score
from guardrail.train.observers import Observers
from guardrail.train.student import Student
from guardrail.train.trainer import Settings

STANDING, WEIGHTS = "early_stopping.json", "best.safetensors"


@dataclass(frozen=True)
class Standing:
    """What was seen so far: the best score and its step, and how many validations in a row did not beat it."""

    best: Score | None = None
    best_step: int = 0
    since: int = 0
    validations: int = 0

    def after(self, step: int, score: Score) -> Standing:
        """The standing after a validation."""
        if self.best is None or score.rank < self.best.rank:
            return Standing(score, step, 0, self.validations + 1)
        return replace(self, since=self.since + 1, validations=self.validations + 1)

    def stops(self, patience: int) -> bool:
        """Whether training goes no further."""
        return self.since >= patience

    def record_fields(self, last_step: int) -> dict[str, Scalar]:
        """For the record of a training that ended after ``last_step``; empty where nothing was validated."""
        if self.best is None:
            return {}
        return {
            "stopped_at_step": last_step,
            "validations": self.validations,
            "best_step": self.best_step,
            "validation_admissible": self.best.admissible,
            "validation_utility": self.best.utility,
            "validation_attack_success_rate": self.best.attack_success_rate,
        }


def check(settings: Settings, method: Method) -> None:
    """Refuse early stopping where what is validated would not be what is kept.

    Raises:
        InvalidInput: the method works on the adapter when it is trained, or the base is sharded (one process alone
            cannot ask it anything).
    """
    if settings.validate_steps and processes.shards():
        raise InvalidInput(
            f"--validate-steps {settings.validate_steps} with --use_fsdp: no process holds the whole model",
            next_step="leave one of the two out",
        )
    if settings.validate_steps and type(method).finish is not Method.finish:
        raise InvalidInput(
            f"--validate-steps {settings.validate_steps} with the method {method.name}, which makes its adapter after"
            " training: what would be validated is not what is kept",
            expected="a method whose adapter is the trained one",
            next_step="leave --validate-steps out (merges choose lambda on the validation split), or choose der",
        )


class EarlyStopping(TrainerCallback):
    """Validates, keeps the best weights, stops; does nothing where ``validate_steps`` is 0.

    ``seconds`` is what validating took in this process.
    """

    def __init__(self, student: Student, settings: Settings, observers: Observers) -> None:
        if settings.validate_steps and observers.validate is None:
            raise InternalError("validation was asked for, but there is nothing to validate with")
        self._student, self._settings, self._observers = student, settings, observers
        self._best: Mapping[str, torch.Tensor] = {}
        self.standing, self.seconds = Standing(), 0.0

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint, or from nothing."""
        self.standing, self._best, self.seconds = Standing(), {}, 0.0
        if checkpoint is None or not (checkpoint / STANDING).exists():
            return
        saved = json.loads((checkpoint / STANDING).read_text(encoding="ascii"))
        if saved["best"] is not None:
            self.standing = Standing(**{**saved, "best": Score(**saved["best"])})
            self._best = load_file(checkpoint / WEIGHTS)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate where it is time; comes before the checkpoint of the same step is written."""
        del args
        every = self._settings.validate_steps
        if not every or (state.global_step % every and not control.should_training_stop):
            return
        start = perf_counter()
        score = processes.from_first(self._score)
        self.seconds += perf_counter() - start
        self._note(state.global_step, score)
        if self.standing.stops(self._settings.patience):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Into the checkpoint, before it is sealed."""
        del control
        if self._settings.validate_steps and args.should_save:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_by(checkpoint / WEIGHTS, lambda file: save_file(dict(self._best), file))
            write_atomically(checkpoint / STANDING, json.dumps(asdict(self.standing)).encode())

    def keep_best(self) -> None:
        """Put the best weights into the student, where there are any."""
        with torch.no_grad():
            for name, parameter in self._student.trained().items():
                if name in self._best:
                    parameter.copy_(self._best[name])

    def record_fields(self, last_step: int) -> dict[str, Scalar]:
        """For the record."""
        told = self.standing.record_fields(last_step)
        return {**told, "validation_seconds": round(self.seconds, 3)} if told else {}

    def _score(self) -> Score:
        if self._observers.validate is None:
            raise InternalError("there is nothing to validate with")
        self._student.eval()
        try:
            with torch.no_grad():
                return self._observers.validate(self._student.model)
        finally:
            self._student.train()

    def _note(self, step: int, score: Score) -> None:
        self.standing = self.standing.after(step, score)
        if self.standing.best_step == step:
            trained = self._student.trained()
            self._best = {name: value.detach().cpu().clone().contiguous() for name, value in trained.items()}
        if self._observers.tell and processes.is_first():
            self._observers.tell(
                step,
                {
                    "validation/utility": score.utility,
                    "validation/attack_success_rate": score.attack_success_rate,
                    "validation/admissible": float(score.admissible),
                },
            )
