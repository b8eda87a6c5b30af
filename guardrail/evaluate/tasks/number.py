"""Numbers: the last number in the response must equal the answer (``1,000`` = ``1000.0``; units are ignored)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.tasks._build import load_named
from guardrail.evaluate.tasks._numbers import number, numbers
from guardrail.samples import Task


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read a file of prompts with numeric answers.

    Raises:
        InvalidInput: a column is missing or a row is broken.
    """
    return load_named(path, name=name, score="number", split=split, columns=columns)


def score(response: str, answer: str) -> bool:
    """Whether the last number in ``response`` is ``answer``; an answer that is no number is never right."""
    right, found = number(answer), numbers(response)
    return right is not None and bool(found) and found[-1] == right
