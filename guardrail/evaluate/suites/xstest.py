"""XSTest prompts (Roettger et al. 2024, arXiv:2308.01263): ``xstest_prompts.csv``.

Columns id, prompt, type, label, focus, note: 250 safe prompts that look unsafe (over-refusal, ``kind: benign``) and 200
unsafe contrasts (``kind: harmful``). Older files have no label; there the contrasts are the types that begin with
``contrast_``. Some copies are saved as Windows-1252, which is read and logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build
from guardrail.evaluate.tables import Cells, Table, need, no_columns, read_table
from guardrail.samples import Behaviour, Suite


def load(path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None) -> Suite:
    """Read the safe (``benign``) or unsafe (``harmful``) prompts of XSTest.

    Raises:
        InvalidInput: the file is not XSTest's.
    """
    no_columns(columns, "xstest")
    table = read_table(path)
    need(table, ("id", "prompt", "type"))
    return build(_behaviours(table, kind), name=name, kind=kind, split=split, source=path.name)


def _behaviours(table: Table, kind: SuiteKind) -> Iterator[Behaviour]:
    for row in table.rows:
        if _kind(table, row) == kind:
            yield Behaviour(
                id=f"xstest-{table.text(row, 'id')}",
                variants=(table.text(row, "prompt"),),
                category=table.text(row, "type"),
            )


def _kind(table: Table, row: Cells) -> SuiteKind:
    if "label" not in table.columns:
        return "harmful" if table.text(row, "type").startswith("contrast_") else "benign"
    label = table.text(row, "label")
    if label not in ("safe", "unsafe"):
        raise InvalidInput(f"{table.file}:{row.line}: the label is {label!r}", expected="safe or unsafe")
    return "harmful" if label == "unsafe" else "benign"
