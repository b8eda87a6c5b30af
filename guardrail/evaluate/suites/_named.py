"""A suite from any table whose columns are named: shared by the loaders ``csv`` and ``jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build
from guardrail.evaluate.tables import Table, read_table, roles
from guardrail.samples import Behaviour, Suite

ROLES = ("prompt", "id", "target", "category")


def load_named(
    path: Path, suffixes: tuple[str, ...], *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None
) -> Suite:
    """Rows with the same id are variants of one behaviour; without an id column every row is one.

    Raises:
        InvalidInput: another suffix, no prompt column, or a broken row.
    """
    if path.suffix.lower() not in suffixes:
        raise InvalidInput(f"{path.name} has the suffix {path.suffix!r}", expected=" or ".join(suffixes))
    table = read_table(path)
    where = roles(table, columns, ROLES)
    if "prompt" not in where:
        raise InvalidInput(
            f"{path.name} has no column 'prompt'; it has {', '.join(table.columns)}",
            expected="a column of prompts",
            next_step=f"name it, for example columns: {{prompt: {table.columns[0]}}}",
        )
    return build(_behaviours(table, where), name=name, kind=kind, split=split, source=path.name)


def _behaviours(table: Table, where: Mapping[str, str]) -> Iterator[Behaviour]:
    found: dict[str, Behaviour] = {}
    for row in table.rows:
        id_ = table.optional(row, where["id"]) if "id" in where else f"row-{row.line}"
        if not id_:
            raise InvalidInput(f"{table.file}:{row.line}: the id is empty", expected="an id in every row")
        prompt = table.text(row, where["prompt"])
        target, category = (table.optional(row, where.get(role)) for role in ("target", "category"))
        known = found.get(id_)
        found[id_] = (
            known.model_copy(update={"variants": (*known.variants, prompt)})
            if known
            else Behaviour(id=id_, variants=(prompt,), target=target, category=category)
        )
    yield from found.values()
