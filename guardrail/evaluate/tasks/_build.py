"""What all tasks share: from rows to a task of distinct prompts, and the loader for files whose columns are named.

Bounds count examples as independent, so n is the number of distinct prompts, compared without case and superfluous
white space. A file of one's own that repeats a prompt is refused, because its owner can repair it. A file as its
authors publish it stays as it is, so there the later repetitions are left out and their number is logged. A prompt
with two right answers is refused in both. Not covered: paraphrases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail import logs
from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import plain, select
from guardrail.evaluate.tables import read_table, roles
from guardrail.samples import Example, Task

log = logs.logger(__name__)

ROLES = ("prompt", "answer", "id")


def build(examples: Iterable[Example], *, name: str, score: str, split: str, source: str) -> Task:
    """The task of the examples in ``split``, which the prompt alone decides; of equal prompts the first stays.

    Raises:
        InvalidInput: an id occurs twice, a prompt has two right answers, or nothing is left.
    """
    everyone = tuple(examples)
    _distinct_ids(everyone, source)
    repeated = _repetitions(everyone, source)
    if repeated:
        log.warning("%s: %d rows repeat an earlier one and are left out", source, len(repeated))
    left_out = {one.later.id for one in repeated}
    kept = [one for one in everyone if one.id not in left_out]
    return Task(name=name, score=score, split=split, examples=select(kept, split, lambda one: one.prompt, source))


@dataclass(frozen=True)
class _Repetition:
    """Two examples that ask the same."""

    first: Example
    later: Example


def _distinct_ids(examples: Sequence[Example], source: str) -> None:
    repeated = sum(count - 1 for count in Counter(one.id for one in examples).values())
    if repeated:
        raise InvalidInput(f"{source} repeats {repeated} ids", expected="a distinct id in every row")


def _repetitions(examples: Sequence[Example], source: str) -> list[_Repetition]:
    """Examples whose prompt occurred before, each with the first of its kind."""
    first: dict[str, Example] = {}
    found = []
    for one in examples:
        known = first.setdefault(plain(one.prompt), one)
        if known.answer != one.answer:
            raise InvalidInput(
                f"{source}: {one.id} has another right answer than {known.id}, which asks the same",
                expected="one right answer for a prompt; case and white space in prompts do not count",
            )
        found += [_Repetition(known, one)] if known is not one else []
    return found


def _refuse_repetitions(examples: Sequence[Example], source: str) -> None:
    repeated = _repetitions(examples, source)
    if repeated:
        raise InvalidInput(
            f"{source} repeats {len(repeated)} prompt{'s' if len(repeated) > 1 else ''}: "
            f"{repeated[0].later.id} asks what {repeated[0].first.id} asks",
            expected="every prompt once; case and white space do not count",
            next_step="remove the repetitions: repeated items would make the bound too narrow",
        )


def load_named(path: Path, *, name: str, score: str, split: str, columns: Mapping[str, str] | None) -> Task:
    """A CSV, TSV or JSON Lines file; ``columns`` names its ``prompt``, ``answer`` and, if any, ``id``.

    Raises:
        InvalidInput: a column is missing, a row is broken, or a prompt or an id occurs twice.
    """
    table = read_table(path)
    where = roles(table, columns, ROLES)
    for role in ("prompt", "answer"):
        if role not in where:
            raise InvalidInput(
                f"{path.name} has no column {role!r}; it has {', '.join(table.columns)}",
                expected="prompt and answer",
                next_step=f"name it, for example columns: {{{role}: {table.columns[0]}}}",
            )
    examples = [
        Example(
            id=table.optional(row, where.get("id")) or f"row-{row.line}",
            prompt=table.text(row, where["prompt"]),
            answer=table.text(row, where["answer"]),
        )
        for row in table.rows
    ]
    _distinct_ids(examples, path.name)
    _refuse_repetitions(examples, path.name)
    return build(examples, name=name, score=score, split=split, source=path.name)
