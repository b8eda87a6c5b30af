"""SST-2 (Socher et al. 2013), as distributed with sentence TAB label and no header: label 1 positive, 0 negative.

The prompt asks for one word. A response is right if it names the right label and not the other one; ``1`` and ``0``
count as labels only where they stand alone. GLUE's TSV (with a header ``sentence label``) loads, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evaluate.tables import Cells, Table, no_columns, read_table
from guardrail.evaluate.tasks._build import build
from guardrail.samples import Example, Task

LABELS = ("negative", "positive")
PROMPT = "Is the sentiment of this sentence positive or negative? Answer with one word.\n\nSentence: {sentence}"

_WORDS = re.compile(r"\b(positive|negative)\b", re.IGNORECASE)


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read SST-2; of equal sentences the first stays (train.tsv repeats some).

    Raises:
        InvalidInput: the file is not SST-2's, or a sentence has both labels.
    """
    no_columns(columns, "sst2")
    table = read_table(path, header=("sentence", "label"))
    rows = (row for row in table.rows if row.line > 1 or table.text(row, "label") != "label")
    examples = (_example(table, row) for row in rows)
    return build(examples, name=name, score="sst2", split=split, source=path.name)


def _example(table: Table, row: Cells) -> Example:
    label = table.text(row, "label")
    if label not in ("0", "1"):
        raise InvalidInput(f"{table.file}:{row.line}: the label is {label!r}", expected="0 or 1")
    prompt = PROMPT.format(sentence=table.text(row, "sentence"))
    return Example(id=f"sst2-{row.line}", prompt=prompt, answer=LABELS[int(label)])


def score(response: str, answer: str) -> bool:
    """Whether ``response`` names the label ``answer`` (``positive`` or ``negative``) and not the other."""
    named = {word.lower() for word in _WORDS.findall(response)}
    if not named and response.strip(" .\n") in ("0", "1"):
        named = {LABELS[int(response.strip(" .\n"))]}
    return named == {answer.strip().lower()}
