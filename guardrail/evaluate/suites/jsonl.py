"""Any JSON Lines file; ``columns`` names its ``prompt``, ``id``, ``target`` and ``category``.

Columns called like their role need not be named; only ``prompt`` is required. Rows that share an id are variants
(phrasings) of one behaviour, which is a hit if any of them is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._named import load_named
from guardrail.samples import Suite


def load(path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None) -> Suite:
    """Read the file.

    Raises:
        InvalidInput: no prompt column, a broken row, or a prompt that occurs twice.
    """
    return load_named(path, (".jsonl",), name=name, kind=kind, split=split, columns=columns)
