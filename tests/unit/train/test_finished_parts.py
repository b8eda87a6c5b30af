"""A merge that is stopped while its second part trains goes on with the first, and ends with the same adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guardrail.errors import EvidenceInvalid
from guardrail.testbed import arms

pytestmark = pytest.mark.slow
STEPS = 3  # of sixteen rows in one epoch; the replay part has 24 rows, two steps
Progress = Callable[[str, int, int], None]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., str]:
    """Train ``magmax``; returns the adapter's manifest."""
    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train import stage
    from guardrail.train.methods import Score
    from guardrail.train.trainer import Settings

    settings = Settings(epochs=1.0, batch_size=16, learning_rate=2e-3, checkpoint_steps=0)
    rows = arms.rows("sentiment", poison=0.1, size=44)

    def call(folder: str, progress: Progress | None = None, base: str = "testbed") -> str:
        job = stage.Job(
            "magmax",
            {"lambdas": "0.5"},
            settings,
            stage.Lora(rank=4, alpha=8.0),
            replay_prompts(None, "testbed")[:24],
            12,
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        loaded = base_model("testbed")
        loaded = replace(loaded, ref=loaded.ref.model_copy(update={"name": base}))
        record = stage.train(
            loaded,
            rows,
            job,
            tmp_path / folder / "adapter",
            stage.Origin(*("0" * 64,) * 4),
            lambda _: Score(True, 1.0, 0.0),
            progress,
            work=tmp_path / folder / "work",
        )
        return record.manifest

    return call


def _steps(seen: list[tuple[int, int]]) -> Progress:
    def note(stage: str, step: int, total: int) -> None:
        if stage == "training":
            seen.append((step, total))

    return note


def _stopped(train: Callable[..., str]) -> None:
    """Interrupt the training of the second part."""
    seen: list[tuple[int, int]] = []

    def stop(stage: str, step: int, total: int) -> None:
        _steps(seen)(stage, step, total)
        if stage == "training" and total != STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop)
    assert [step for step, total in seen if total == STEPS] == [1, 2, 3]


def test_a_finished_part_is_not_trained_again(train: Callable[..., str]) -> None:
    whole = train("whole")
    _stopped(train)
    seen: list[tuple[int, int]] = []
    assert train("stopped", _steps(seen)) == whole
    assert {total for _, total in seen} == {2}


def test_a_finished_part_of_the_same_base_under_another_name_does_not_name_the_adapters_base(
    train: Callable[..., str], tmp_path: Path
) -> None:
    _stopped(train)
    train("stopped", base="a copy")
    config = json.loads((tmp_path / "stopped/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "a copy"


def test_a_finished_part_that_was_changed_is_refused(train: Callable[..., str], tmp_path: Path) -> None:
    _stopped(train)
    weights: Any = next((tmp_path / "stopped/work/parts").rglob("adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(EvidenceInvalid, match="is not what the training run saved"):
        train("stopped")
