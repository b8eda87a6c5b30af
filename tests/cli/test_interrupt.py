"""A real Ctrl-C in the middle of a real run: one message, exit code 130, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from repository import ROOT
from tiny_models import POLICY, write_policy, write_replay, write_rows

pytestmark = pytest.mark.slow
COMMAND = (
    sys.executable,
    "-m",
    "guardrail",
    "run",
    "rows.jsonl",
    "--policy",
    "policy.yaml",
    "--method",
    "der",
    "--replay",
    "replay.jsonl",
    "--key",
    "keys/guardrail.key",
    "--output",
    "json",
)


def _interruptible() -> None:
    """A shell's background job starts with SIGINT ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_training_is_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    from guardrail.evidence.keys import key_pairs

    key_pairs.init(tmp_path / "keys")
    lax = POLICY.replace("min: 0.5", "min: 0.0").replace("max: 0.3", "max: 1.0").replace("crease: 0.4", "crease: 1.0")
    write_policy(tmp_path, lax)
    write_rows(tmp_path / "rows.jsonl")
    write_replay(tmp_path / "replay.jsonl")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    job = subprocess.Popen(
        (*COMMAND, "--epochs", "100000"),
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_interruptible,
    )
    record = tmp_path / "run" / "data-report.json"
    while not record.exists() and job.poll() is None:  # training, which would take days, comes next
        with suppress(subprocess.TimeoutExpired):
            job.wait(0.1)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate()
    assert job.returncode == 130, err
    assert (out, "Traceback" in err) == ("", False)
    assert "run the same command again" in err
    assert not (tmp_path / "run" / "adapter.json").exists()
    written = record.stat().st_mtime_ns
    done = subprocess.run(
        (*COMMAND, "--epochs", "1"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "1"
    assert record.stat().st_mtime_ns == written
