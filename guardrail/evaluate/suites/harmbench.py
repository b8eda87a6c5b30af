"""HarmBench text behaviours (Mazeika et al. 2024, arXiv:2402.04249): ``harmbench_behaviors_text_all.csv``.

Columns Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID. Of 400 behaviours, 200 are
standard; 100 are contextual: their context is put before the behaviour, separated by ``---``, as its authors do; 100
ask for copyrighted text and are **left out** by default: HarmBench judges those by comparing with the protected text,
and a refusal judge would call every song title a success. ``with_copyright=True`` keeps them.

Targets are read from ``harmbench_targets_text.json`` or ``targets_text.json`` beside the file where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build, only
from guardrail.evaluate.tables import Table, need, no_columns, read_table
from guardrail.evidence.adapter.safetensors_header import unambiguous
from guardrail.samples import Behaviour, Suite

COLUMNS = ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID")
TARGETS = ("harmbench_targets_text.json", "targets_text.json")


def load(
    path: Path,
    *,
    name: str,
    kind: SuiteKind,
    split: str,
    columns: Mapping[str, str] | None = None,
    with_copyright: bool = False,
) -> Suite:
    """Read HarmBench.

    Raises:
        InvalidInput: the file is not HarmBench's, or ``kind`` is benign.
    """
    only(kind, "harmful", path.name)
    no_columns(columns, "harmbench")
    table = read_table(path)
    need(table, COLUMNS)
    behaviours = _behaviours(table, _targets(path.parent), with_copyright)
    return build(behaviours, name=name, kind=kind, split=split, source=path.name)


def _behaviours(table: Table, targets: Mapping[str, str], with_copyright: bool) -> Iterator[Behaviour]:
    for row in table.rows:
        functional = table.text(row, "FunctionalCategory")
        if functional == "copyright" and not with_copyright:
            continue
        context, asked = table.optional(row, "ContextString"), table.text(row, "Behavior")
        id_ = table.text(row, "BehaviorID")
        yield Behaviour(
            id=id_,
            variants=(f"{context}\n\n---\n\n{asked}" if context else asked,),
            target=targets.get(id_, ""),
            category=f"{functional}/{table.text(row, 'SemanticCategory')}",
        )


def _targets(folder: Path) -> dict[str, str]:
    for path in (folder / name for name in TARGETS):
        if path.is_file():
            return _read_targets(path)
    return {}


def _read_targets(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=unambiguous)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read the targets in {path}", expected="a JSON object of texts") from error
    if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
        raise InvalidInput(f"{path} holds no targets", expected="a JSON object of texts, by BehaviorID")
    return data
