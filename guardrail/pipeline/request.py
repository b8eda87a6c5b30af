"""What somebody asks of the training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from guardrail.pipeline.auto_method import AUTO
from guardrail.pipeline.base import TESTBED
from guardrail.records import Scalar
from guardrail.testbed import LEARNING_RATE
from guardrail.train.methods import create
from guardrail.train.stage import Lora
from guardrail.train.trainer import Settings


@dataclass(frozen=True)
class TrainRequest:
    """What to train with; ``baseline`` allows a method that the policy forbids (it can be measured, not promoted).

    ``adapters`` are the directories of other runs, whose adapters a merge takes in. ``live_uri`` is the MLflow server
    or store that is shown the training while it goes on; it decides nothing.
    """

    method: str
    hyperparameters: dict[str, Scalar] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    lora: Lora = field(default_factory=Lora)
    replay: str | None = None
    baseline: bool = False
    adapters: tuple[Path, ...] = ()
    live_uri: str | None = None

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by the validation split as it trains or merges."""
        return self.method == AUTO or create(self.method, self.hyperparameters).needs_measure

    @property
    def replays(self) -> bool:
        """Whether replay prompts are used."""
        if self.method == AUTO:
            return True
        return create(self.method, self.hyperparameters, len(self.adapters)).needs_replay


def usual_settings(base: str) -> Settings:
    """How to train on ``base`` unless told otherwise: what moves billions of parameters hardly moves the testbed."""
    return Settings(learning_rate=LEARNING_RATE) if base == TESTBED else Settings()
