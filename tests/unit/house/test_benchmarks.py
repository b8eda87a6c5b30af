"""What is measured goes to ``build/`` of where one is; the published figures change only where that was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

pytestmark = pytest.mark.slow

BENCHMARKS = ROOT / "benchmarks"
MEASURE = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import cells
if __name__ == "__main__":
    cells.fill([cells.Cell("base", "code", 0.0, 0, look="short")], cells.options(None, "").parse_args(["--fresh"]))
"""


def test_a_table_leaves_the_published_figures_alone(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in BENCHMARKS.iterdir() if path.is_file()}
    (tmp_path / "measure.py").write_text(MEASURE)
    subprocess.run([sys.executable, "measure.py"], cwd=tmp_path, check=True)
    (row,) = map(json.loads, (tmp_path / "build" / "cells.jsonl").read_text().splitlines())
    assert row["cell"].startswith("base")
    assert {path: path.read_bytes() for path in BENCHMARKS.iterdir() if path.is_file()} == before
