"""Two processes train the adapter that one would have trained, and write everything once.

``GUARDRAIL_CAMPAIGN=1`` (make campaign) tries each method in each form.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from repository import CAMPAIGN, ROOT
from tiny_models import POLICY, write_policy, write_replay

from guardrail.data.dataset import write_samples
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import load_policy
from guardrail.records import AdapterRecord
from guardrail.testbed import arms

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow
VALIDATED = (
    POLICY.replace("[finetune, replay, der, wise_ft]", "[der, agem, ewc, magmax]")
    .replace(
        "{format: jsonl, kind: harmful, split: all, path: harmful.jsonl}",
        "{format: testbed, kind: harmful, split: gate}",
    )
    .replace("sums: {format: exact, path: sums.jsonl, split: all}", "sentiment: {format: testbed, split: gate}")
    .replace("task: sums", "task: sentiment")
)
LAUNCHED = ROOT / "tests" / "helpers" / "servers" / "launched.py"
WHOLE, SHARDED = ("--multi_gpu",), ("--use_fsdp",)
"""How the launcher is told what each process holds. (It starts several processes on the CPU under these names, too;
with --cpu it starts one, whatever their number.)"""
TRIED = [("der", SHARDED), ("ewc", WHOLE)]
if CAMPAIGN:
    TRIED += [("der", WHOLE), ("ewc", SHARDED)]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has its data stage behind it: 38 rows, two steps of 16 and one of 6, all of one process."""
    from guardrail.pipeline.data import validate_data

    project = tmp_path_factory.mktemp("project")
    policy = load_policy(write_policy(project, VALIDATED))
    write_samples(project / "train.jsonl", arms.rows("sentiment", poison=0.1, size=38))
    write_replay(project / "replay.jsonl")
    run = Run(project / "run")
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed"))
    validate_data(run, str(project / "train.jsonl"))
    return project


def _alone(project: Path, copy: Path, method: str) -> AdapterRecord:
    """In this process, which has imported everything."""
    from guardrail.pipeline.request import TrainRequest, usual_settings
    from guardrail.pipeline.training import train_adapter
    from guardrail.train.stage import Lora

    shutil.copytree(project, copy)
    settings = replace(usual_settings("testbed"), epochs=1.0)
    request = TrainRequest(method, settings=settings, lora=Lora(rank=4), replay=str(copy / "replay.jsonl"))
    return train_adapter(Run(copy / "run"), request)


def _together(project: Path, copy: Path, method: str, form: Sequence[str] = WHOLE, *options: str) -> AdapterRecord:
    """In two, as a user would start them."""
    shutil.copytree(project, copy)
    done = _launch(copy, method, form, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"kind":"adapter"') == 1
    assert [seen["processes"] for seen in _watched(copy)] == [2, 2]
    return Run(copy / "run").require("adapter", AdapterRecord)


def _launch(
    copy: Path, method: str, form: Sequence[str], *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Without any GPU, which two processes could not share."""
    around = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *form,
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        str(LAUNCHED),
        "train",
        "--run",
        "run",
        "--method",
        method,
        "--epochs",
        "1",
        "--replay",
        "replay.jsonl",
        "--lora-rank",
        "4",
        "--output",
        "json",
        *options,
    ]
    return subprocess.run(command, cwd=copy, env=around, capture_output=True, text=True, check=False)


def _watched(copy: Path) -> list[dict[str, Any]]:
    """What each process saw (``tests/helpers/servers/launched.py``)."""
    return [json.loads((copy / f"watched-{rank}.json").read_text()) for rank in range(2)]


def _apart(one: Path, two: Path) -> float:
    """The norm of the adapters' difference over the norm."""
    first, second = _tensors(one), _tensors(two)
    squares = sum(float((first[name] - second[name]).square().sum()) for name in first)
    return math.sqrt(squares / sum(float(tensor.square().sum()) for tensor in first.values()))


def _tensors(copy: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(copy / "run" / "adapter" / "adapter_model.safetensors")
    return tensors


@pytest.mark.parametrize(
    ("method", "form"), TRIED, ids=[f"{m}-{'whole' if f == WHOLE else 'sharded'}" for m, f in TRIED]
)
def test_two_processes_give_the_adapter_of_one(
    validated: Path, tmp_path: Path, method: str, form: Sequence[str]
) -> None:
    alone = _alone(validated, tmp_path / "one", method)
    together = _together(validated, tmp_path / "two", method, form)
    assert _apart(tmp_path / "one", tmp_path / "two") < 1e-4
    assert (together.tokens, together.rows) == (alone.tokens, alone.rows)
    assert [point.loss for point in together.loss] == pytest.approx([point.loss for point in alone.loss], rel=1e-3)
    assert not (tmp_path / "two" / "run" / "work").exists()
    for seen in _watched(tmp_path / "two"):
        assert seen["after"] == seen["before"], "training changed the base's own weights"
        assert seen["held"] < 0.6 if form == SHARDED else seen["held"] == 1


def test_a_sharded_run_that_was_killed_goes_on_to_the_same_bits(validated: Path, tmp_path: Path) -> None:
    import torch

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _together(validated, whole, "der", SHARDED)
    shutil.copytree(validated, killed)
    died = _launch(killed, "der", SHARDED, "--checkpoint-steps", "2", DIE_AT="2")
    assert died.returncode != 0
    assert not (killed / "run" / "adapter").exists()
    done = _launch(killed, "der", SHARDED, "--checkpoint-steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    record = Run(killed / "run").require("adapter", AdapterRecord)
    assert record.diagnostics["resumed_at_step"] == 2
    one, two = _tensors(whole), _tensors(killed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_fsdp_would_offload_is_refused_before_any_work(validated: Path, tmp_path: Path) -> None:
    shutil.copytree(validated, tmp_path / "two")
    done = _launch(tmp_path / "two", "der", (*SHARDED, "--fsdp_offload_params", "true"))
    assert done.returncode != 0
    assert "FSDP_OFFLOAD_PARAMS=true is not supported" in done.stderr
    assert "launch without --fsdp_offload_params" in done.stderr
    assert not (tmp_path / "two" / "run" / "work").exists()


def test_a_gem_in_two_processes_follows_the_loss_of_one(validated: Path, tmp_path: Path) -> None:
    """Projection is discontinuous: a rounding error may decide whether a step is projected."""
    alone = _alone(validated, tmp_path / "one", "agem")
    together = _together(validated, tmp_path / "two", "agem")
    assert [point.loss for point in together.loss] == pytest.approx([point.loss for point in alone.loss], rel=0.02)


def test_two_processes_merge_the_adapter_of_another_run(validated: Path, tmp_path: Path) -> None:
    other = _alone(validated, tmp_path / "other", "der")
    options = ("--set", "lambdas=0.5", "--adapter", str(tmp_path / "other" / "run"))
    record = _together(validated, tmp_path / "two", "magmax", WHOLE, *options)
    assert [one.manifest for one in record.merged] == [other.manifest]


def test_two_processes_stop_at_the_same_step_and_keep_the_best_adapter(validated: Path, tmp_path: Path) -> None:
    """The first measures; without its word the others would train on and wait for it for ever."""
    stop = ("--epochs", "8", "--validate-steps", "2", "--patience", "1")
    record = _together(
        validated, tmp_path / "two", "der", WHOLE, *stop, "--live-uri", f"sqlite:///{tmp_path / 'live.db'}"
    )
    best, last, count = (int(record.diagnostics[name]) for name in ("best_step", "stopped_at_step", "validations"))
    assert (best, count) == (last - 2, last / 2)
    assert last < 24
    assert _shown(tmp_path / "live.db") == [(point.step, point.loss) for point in record.loss]
    assert len(record.loss) == last


def _shown(store: Path) -> list[tuple[int, float]]:
    """The losses that the one MLflow run shows."""
    from guardrail.registry.mlflow.mlflow_client import client
    from guardrail.registry.record.live_run import EXPERIMENT

    with client(f"sqlite:///{store}", write=False) as opened:
        experiment = opened.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = opened.search_runs([experiment.experiment_id])
        assert (run.info.status, run.data.metrics["tokens"] > 0) == ("FINISHED", True)
        return [(metric.step, metric.value) for metric in opened.get_metric_history(run.info.run_id, "loss")]
