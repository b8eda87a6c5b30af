"""Killed with SIGKILL in the middle of any optimiser step, a training run ends with the bits that it would have had.

Victims are forked from this process, which has imported everything. ``GUARDRAIL_CAMPAIGN=1`` (make campaign) kills at
twenty of all steps instead of at one that has a checkpoint behind it.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import CAMPAIGN

from guardrail.testbed import arms

pytestmark = pytest.mark.slow
ROWS = arms.rows("sentiment", poison=0.1, size=88)
STEPS = 24  # six of sixteen rows in each of four epochs
SAVED = 3
"""Every so many steps there is a checkpoint."""
POINTS, EARLIEST = (20, 0) if CAMPAIGN else (1, SAVED)


def _near(model: Any) -> Any:
    """A score that a model earns by its weights alone: they grow, and are best at a size that step 8 comes near."""
    from guardrail.train.methods import Score

    size = sum(float(value.detach().square().sum()) for name, value in model.named_parameters() if "lora_B" in name)
    return Score(True, -abs(size - 2.0), 0.0)


def _train(method: str, folder: Path, validate_steps: int = 0) -> tuple[str, int]:
    """The adapter's manifest and its best validated step, from the newest checkpoint on where there is one."""
    from guardrail.pipeline.base import base_model
    from guardrail.pipeline.prompts import replay_prompts
    from guardrail.train import stage
    from guardrail.train.observers import Observers
    from guardrail.train.trainer import Settings

    settings = Settings(
        epochs=4.0, batch_size=16, learning_rate=2e-3, checkpoint_steps=SAVED, validate_steps=validate_steps, patience=5
    )
    job = stage.Job(method, {}, settings, stage.Lora(rank=4, alpha=8.0), replay_prompts(None, "testbed")[:24], 12)
    origin = stage.Origin(*("0" * 64,) * 4)
    record = stage.train(
        base_model("testbed"), ROWS, job, folder / "adapter", origin, work=folder / "work", observers=Observers(_near)
    )
    return record.manifest, int(record.diagnostics.get("best_step", 0))


def _forked(action: Callable[[], object]) -> int:
    """Run in a child; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at(method: str, step: int) -> None:
    """Let the loss of an optimiser step be the last thing that this process computes."""
    from guardrail.train import methods

    kind: Any = type(methods.create(method, {}))
    original = kind.losses

    def losses(self: Any, now: Any) -> Any:
        if now.index == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, now)

    kind.losses = losses


@pytest.mark.parametrize(("method", "validate_steps"), [("der", 0), ("agem", 0), ("ewc", 0), ("der", 2)])
def test_a_run_that_was_killed_ends_with_the_same_bits(method: str, validate_steps: int, tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no other threads
    try:
        whole = _train(method, tmp_path / "whole", validate_steps)
        last = 8 + 5 * validate_steps if validate_steps else STEPS
        assert whole[1] == (8 if validate_steps else 0)
        steps = range(EARLIEST, last)
        for step in sorted(random.Random(f"{method}{validate_steps}").sample(steps, min(len(steps), POINTS))):
            folder = tmp_path / str(step)

            def victim(folder: Path = folder, step: int = step) -> None:
                _die_at(method, step)
                _train(method, folder, validate_steps)

            assert _forked(victim) == -signal.SIGKILL
            assert not (folder / "adapter").exists()
            assert _train(method, folder, validate_steps) == whole, f"{method} killed at step {step}"
    finally:
        torch.set_num_threads(threads)
