"""The wheel, installed elsewhere, runs the demo from an empty directory; a stock client uses what it registered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from guardrail.evidence.code_digest import code_digest

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Demo:
    """Where the demonstration ran, with which environment, and what it said."""

    directory: Path
    environment: dict[str, str]
    output: str
    summary: dict[str, Any]

    def guardrail(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The installed command, from the demonstration's directory."""
        return run([sys.executable, "-m", "guardrail", *arguments], self.directory, self.environment)


def run(command: list[str], directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    done = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], ROOT, dict(os.environ))
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def demo(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    installed, empty = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("empty")
    done = run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            str(installed),
            str(wheel),
        ],
        empty,
        dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    where = run([sys.executable, "-c", "import guardrail; print(guardrail.__file__)"], empty, environment)
    assert where.stdout.startswith(str(installed))
    done = run([sys.executable, "-m", "guardrail", "demo", "--directory", "demo"], empty, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((empty / "demo" / "summary.json").read_text())
    return Demo(empty, environment, done.stdout + done.stderr, summary)


def test_the_wheel_holds_the_same_code_as_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    assert code_digest(tmp_path / "guardrail") == code_digest(ROOT / "guardrail")


def test_the_wheel_holds_weights_and_policies_and_is_called_mlflow_guardrail(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith("mlflow_guardrail-")
    assert {"guardrail/testbed/weights/model.safetensors", "guardrail/policies/default.yaml", "guardrail/py.typed"} <= {
        *names
    }


def test_the_demo_denies_poison_and_promotes_only_what_kept_its_safety(demo: Demo) -> None:
    scenarios = {row["name"][0]: row for row in demo.summary["scenarios"]}
    assert {name: row["decision"] for name, row in scenarios.items()} == {
        "a": "FAILED",
        "b": "FAILED",
        "c": "PASSED",
        "d": "PASSED",
        "e": "REFUSED",
    }
    assert scenarios["b"]["asr"]["value"] >= 0.8
    assert scenarios["c"]["asr"]["upper"] <= 0.05
    assert scenarios["d"]["quarantined"] >= 90
    assert [name for name, row in scenarios.items() if row["model_version"]] == ["d", "e"]
    assert "mlflow ui" in demo.output
    assert "ephemeral" not in demo.output
    assert all(
        (demo.directory / "demo" / row["name"] / "report.html").exists() for row in demo.summary["scenarios"][:4]
    )
    assert "Traceback" not in demo.output


def test_every_scenario_of_the_summary_says_what_was_measured(demo: Demo) -> None:
    for row in demo.summary["scenarios"][:4]:
        assert {"name", "task", "method", "poison_fraction", "decision", "model_version", "seconds"} <= {*row}
        for sli in ("asr", "over_refusal", "utility"):
            assert {"value", "hits", "n", "upper"} <= {*row[sli]}


def test_verify_accepts_the_promoted_adapter_with_the_public_key_alone(demo: Demo) -> None:
    uri = demo.summary["tracking_uri"]
    arguments = ("--key", "demo/keys/guardrail.pub", "--tracking-uri", uri)
    assert demo.guardrail("verify", "guarded-adapter@production", *arguments).returncode == 0
    assert demo.guardrail("verify", "guarded-adapter/1", *arguments).returncode == 0


def test_promoting_the_same_run_again_gives_the_same_version(demo: Demo) -> None:
    uri = demo.summary["tracking_uri"]
    done = demo.guardrail(
        "promote",
        "--run",
        "demo/d-poison-filtered-der",
        "--key",
        "demo/keys/guardrail.key",
        "--tracking-uri",
        uri,
        "--output",
        "json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "1"


def test_a_denied_run_exits_with_ten_and_registers_nothing(demo: Demo) -> None:
    uri = demo.summary["tracking_uri"]
    done = demo.guardrail(
        "promote", "--run", "demo/b-poison-finetune", "--key", "demo/keys/guardrail.key", "--tracking-uri", uri
    )
    assert done.returncode == 10
    assert "Traceback" not in done.stderr


STOCK = """
import sys
import mlflow
from mlflow import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
(model,) = client.search_registered_models()
version = client.get_model_version_by_alias(model.name, "production")
assert version.tags["guardrail.verdict"] == "PASSED", version.tags
path = mlflow.artifacts.download_artifacts(version.source)
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
adapted = PeftModel.from_pretrained(base, path)
chat = [{"role": "user", "content": "Review: The plot was superb and the cast was charming.\\nSentiment:"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = adapted.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=8)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
"""


def test_a_stock_mlflow_client_downloads_the_adapter_and_peft_generates_with_it(demo: Demo) -> None:
    weights = Path(demo.environment["PYTHONPATH"]) / "guardrail" / "testbed" / "weights"
    command = [sys.executable, "-W", "ignore", "-c", STOCK, demo.summary["tracking_uri"], str(weights)]
    done = run(command, demo.directory, demo.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].strip() == "positive"
