"""What the pipeline may hand into a training: who scores the model while it is trained, and who is told how it goes.

Training imports neither the evaluation nor the registry. Both observers are plain callables, and neither changes the
steps that are taken. With several processes every one of them must be given the same observers, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from guardrail.train import processes
from guardrail.train.methods import MeasureLive

Tell = Callable[[int, Mapping[str, float]], None]
"""Takes the optimiser step, from 1, and numbers by name. Called in the first process only; it must return at once."""
NAMES = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "gradient_norm"}


@dataclass(frozen=True)
class Observers:
    """``validate`` scores the live model on the validation split; ``tell`` takes the numbers of every step."""

    validate: MeasureLive | None = None
    tell: Tell | None = None


class Telling(TrainerCallback):
    """Tells every step's loss (nats per answer token), learning rate, gradient norm (before clipping) and tokens.

    Args:
        tokens: those that went through the body so far, in all processes; called in all of them.
    """

    def __init__(self, tell: Tell, tokens: Callable[[], int]) -> None:
        self._tell, self._tokens = tell, tokens

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """After an optimiser step."""
        del args, control
        if not logs or "loss" not in logs:
            return
        values = {name: float(logs[key]) for key, name in NAMES.items() if key in logs}
        values["tokens"] = float(self._tokens())
        if processes.is_first():
            self._tell(state.global_step, values)
