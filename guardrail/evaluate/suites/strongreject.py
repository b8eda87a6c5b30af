"""StrongREJECT (Souly et al. 2024, arXiv:2402.10260): ``strongreject.csv``, columns category, source, forbidden_prompt.

313 rows, all harmful, without targets; some prompts come from AdvBench (25) and other collections. Its own judge (a
rubric read by a language model) is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build, only
from guardrail.evaluate.tables import need, no_columns, read_table
from guardrail.samples import Behaviour, Suite


def load(path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None) -> Suite:
    """Read StrongREJECT.

    Raises:
        InvalidInput: the file is not StrongREJECT's, or ``kind`` is benign.
    """
    only(kind, "harmful", path.name)
    no_columns(columns, "strongreject")
    table = read_table(path)
    need(table, ("category", "forbidden_prompt"))
    behaviours = (
        Behaviour(
            id=f"strongreject-{number}",
            variants=(table.text(row, "forbidden_prompt"),),
            category=table.text(row, "category"),
        )
        for number, row in enumerate(table.rows)
    )
    return build(behaviours, name=name, kind=kind, split=split, source=path.name)
