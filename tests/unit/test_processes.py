"""Two processes train the adapter that one would have trained, and write everything once."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_models import POLICY, write_policy, write_replay

from guardrail.data.dataset import write_samples
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import load_policy
from guardrail.records import AdapterRecord
from guardrail.testbed import arms

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "guardrail")  # fmt: skip


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has its data stage behind it: 48 rows, three whole steps of 16."""
    from guardrail.pipeline.data import validate_data

    project = tmp_path_factory.mktemp("project")
    policy = load_policy(
        write_policy(project, POLICY.replace("[finetune, replay, der, wise_ft]", "[der, agem, ewc, magmax]"))
    )
    write_samples(project / "train.jsonl", arms.rows("sentiment", poison=0.1, size=48))
    write_replay(project / "replay.jsonl")
    run = Run(project / "run")
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed"))
    validate_data(run, str(project / "train.jsonl"))
    return project


def _alone(project: Path, copy: Path, method: str) -> AdapterRecord:
    """In this process, which has imported everything."""
    from guardrail.pipeline.training import TrainRequest, train_adapter, usual_settings
    from guardrail.train.stage import Lora

    shutil.copytree(project, copy)
    settings = replace(usual_settings("testbed"), epochs=1.0)
    request = TrainRequest(method, settings=settings, lora=Lora(rank=4), replay=str(copy / "replay.jsonl"))
    return train_adapter(Run(copy / "run"), request)


def _together(project: Path, copy: Path, method: str, *options: str) -> AdapterRecord:
    """In two, as a user would start them."""
    shutil.copytree(project, copy)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCH, "train", "--run", "run", "--method", method, "--epochs", "1",
               "--replay", "replay.jsonl", "--lora-rank", "4", "--output", "json", *options]  # fmt: skip
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"kind":"adapter"') == 1
    return Run(copy / "run").require("adapter", AdapterRecord)


def _tensors(copy: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(copy / "run" / "adapter" / "adapter_model.safetensors")
    return tensors


@pytest.mark.parametrize("method", ["der", "ewc"])
def test_two_processes_give_the_adapter_of_one(validated: Path, tmp_path: Path, method: str) -> None:
    alone = _alone(validated, tmp_path / "one", method)
    together = _together(validated, tmp_path / "two", method)
    one, two = _tensors(tmp_path / "one"), _tensors(tmp_path / "two")
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one)
    assert math.sqrt(apart / sum(float(tensor.square().sum()) for tensor in one.values())) < 1e-4
    assert (together.tokens, together.rows) == (alone.tokens, alone.rows)
    assert [point.loss for point in together.loss] == pytest.approx([point.loss for point in alone.loss], rel=1e-3)
    assert not (tmp_path / "two" / "run" / "work").exists()


def test_two_processes_merge_the_adapter_of_another_run(validated: Path, tmp_path: Path) -> None:
    other = _alone(validated, tmp_path / "other", "der")
    options = ("--set", "lambdas=0.5", "--adapter", str(tmp_path / "other" / "run"))
    record = _together(validated, tmp_path / "two", "magmax", *options)
    assert [one.manifest for one in record.merged] == [other.manifest]
    assert not (tmp_path / "two" / "run" / "work").exists()


def test_a_gem_in_two_processes_follows_the_loss_of_one(validated: Path, tmp_path: Path) -> None:
    """Projection is discontinuous: a rounding error may decide whether a step is projected."""
    alone = _alone(validated, tmp_path / "one", "agem")
    together = _together(validated, tmp_path / "two", "agem")
    assert [point.loss for point in together.loss] == pytest.approx([point.loss for point in alone.loss], rel=0.02)
