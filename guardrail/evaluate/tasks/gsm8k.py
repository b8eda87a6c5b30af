"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): ``train.jsonl`` and ``test.jsonl``, fields question and answer.

The right answer stands after ``####`` at the end. In a response the number after ``####`` counts; where there is no
marker, the last number does, so a model that was not trained on the format can score, too. Nothing checks the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.tables import need, no_columns, read_table
from guardrail.evaluate.tasks._build import build
from guardrail.evaluate.tasks._numbers import numbers
from guardrail.samples import Example, Task

MARKER = "####"


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read GSM8K.

    Raises:
        InvalidInput: the file is not GSM8K's, or an answer has no number after ``####``.
    """
    no_columns(columns, "gsm8k")
    table = read_table(path)
    need(table, ("question", "answer"))
    examples = []
    for number, row in enumerate(table.rows):
        answer = table.text(row, "answer")
        if MARKER not in answer or not numbers(answer.rpartition(MARKER)[2]):
            raise InvalidInput(f"{table.file}:{row.line}: the answer has no number after {MARKER}", expected="GSM8K")
        examples.append(Example(id=f"gsm8k-{number}", prompt=table.text(row, "question"), answer=answer))
    return build(examples, name=name, score="gsm8k", split=split, source=path.name)


def score(response: str, answer: str) -> bool:
    """Whether the response's final number equals the answer's (which may be a whole solution or the number alone)."""
    right, found = numbers(answer.rpartition(MARKER)[2])[:1], _final(response)
    return bool(right) and found == right


def _final(response: str) -> list[object]:
    if MARKER in response:
        return list(numbers(response.partition(MARKER)[2])[:1])
    return list(numbers(response)[-1:])
