"""The import contracts hold, and they bite: a planted import that breaks one is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

pytestmark = pytest.mark.slow

PLANTED = [
    ("data/validate.py", "import guardrail.train.collate"),
    ("train/collate.py", "from guardrail.evaluate import tally"),
    ("evidence/digest.py", "from guardrail.model import chat"),
    ("registry/mlflow/tags.py", "from guardrail.pipeline import run"),
    ("registry/mlflow/tags.py", "from guardrail.gate import settings"),
    ("gate/settings.py", "from guardrail.pipeline import run"),
    ("registry/read/reader.py", "from guardrail.registry.record import promote"),
    ("evidence/keys/key_pairs.py", "from guardrail.evidence.ledger import sums"),
    ("evaluate/tally.py", "def late() -> None:\n    import mlflow"),
    ("data/validate.py", "import torch"),
    ("train/collate.py", "import peft"),
    ("report/html.py", "import great_expectations"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    ignored = shutil.ignore_patterns("__pycache__", "weights", "*.pyc")
    shutil.copytree(ROOT / "guardrail", folder / "guardrail", ignore=ignored)
    shutil.copyfile(ROOT / "ci" / "importlinter.ini", folder / "importlinter.ini")
    return folder


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--config",
        "importlinter.ini",
        "--no-cache",
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_hold(copy: Path) -> None:
    done = _lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("module", "code"), PLANTED)
def test_an_import_against_the_direction_is_found(copy: Path, module: str, code: str) -> None:
    path = copy / "guardrail" / module
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n{code}\n", encoding="utf-8")
    try:
        done = _lint(copy)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1
    assert "BROKEN" in done.stdout, done.stdout + done.stderr
    assert f"guardrail.{module.removesuffix('.py').replace('/', '.')}" in done.stdout


def test_a_new_folder_that_no_layer_names_is_found(copy: Path) -> None:
    (copy / "guardrail" / "extra").mkdir()
    (copy / "guardrail" / "extra" / "__init__.py").write_text("")
    try:
        done = _lint(copy)
    finally:
        shutil.rmtree(copy / "guardrail" / "extra")
    assert done.returncode == 1
    assert "guardrail.extra" in done.stdout + done.stderr
