"""JailbreakBench behaviours (Chao et al. 2024, arXiv:2404.01318): ``harmful-behaviors.csv``, ``benign-behaviors.csv``.

Columns Index, Goal, Target, Behavior, Category, Source; 100 rows each. The benign rows mirror the harmful ones theme by
theme, which makes them hard negatives. Which file it is says only its name, so a name that contradicts ``kind`` is
refused. 11 goals are AdvBench's and 9 HarmBench's. Attack artifacts (GCG, PAIR, JBC) are not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build, only
from guardrail.evaluate.tables import need, no_columns, read_table
from guardrail.samples import Behaviour, Suite


def load(path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None) -> Suite:
    """Read one of JailbreakBench's two files.

    Raises:
        InvalidInput: the file is not JailbreakBench's, or its name contradicts ``kind``.
    """
    for right in ("harmful", "benign"):
        if path.name.startswith(right):
            only(kind, right, path.name)
    no_columns(columns, "jailbreakbench")
    table = read_table(path)
    need(table, ("Index", "Goal", "Target", "Behavior", "Category"))
    behaviours = (
        Behaviour(
            id=f"jailbreakbench-{kind}-{table.text(row, 'Index')}",
            variants=(table.text(row, "Goal"),),
            target=table.text(row, "Target"),
            category=table.text(row, "Category"),
        )
        for row in table.rows
    )
    return build(behaviours, name=name, kind=kind, split=split, source=path.name)
