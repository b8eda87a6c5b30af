"""What all tasks share: from rows to a task, and the loader for files whose columns are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import select
from guardrail.evaluate.tables import read_table, roles
from guardrail.samples import Example, Task

ROLES = ("prompt", "answer", "id")


def build(examples: Iterable[Example], *, name: str, score: str, split: str, source: str) -> Task:
    """The task of the examples in ``split``, which the prompt alone decides.

    Raises:
        InvalidInput: an id occurs twice, or nothing is left.
    """
    everyone = tuple(examples)
    repeated = sum(count - 1 for count in Counter(one.id for one in everyone).values())
    if repeated:
        raise InvalidInput(f"{source} repeats {repeated} ids", expected="a distinct id in every row")
    return Task(name=name, score=score, split=split, examples=select(everyone, split, lambda one: one.prompt, source))


def load_named(path: Path, *, name: str, score: str, split: str, columns: Mapping[str, str] | None) -> Task:
    """A CSV, TSV or JSON Lines file; ``columns`` names its ``prompt``, ``answer`` and, if any, ``id``.

    Raises:
        InvalidInput: a column is missing or a row is broken.
    """
    table = read_table(path)
    where = roles(table, columns, ROLES)
    for role in ("prompt", "answer"):
        if role not in where:
            raise InvalidInput(
                f"{path.name} has no column {role!r}; it has {', '.join(table.columns)}", expected="prompt and answer",
                next_step=f"name it, for example columns: {{{role}: {table.columns[0]}}}",
            )  # fmt: skip
    examples = (
        Example(
            id=table.optional(row, where.get("id")) or f"row-{row.line}",
            prompt=table.text(row, where["prompt"]),
            answer=table.text(row, where["answer"]),
        )
        for row in table.rows
    )
    return build(examples, name=name, score=score, split=split, source=path.name)
