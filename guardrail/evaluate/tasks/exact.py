"""Exact answers: the response must equal the answer, apart from white space at the ends and runs of it within."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.tasks._build import load_named
from guardrail.samples import Task


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read a file of prompts with exact answers.

    Raises:
        InvalidInput: a column is missing or a row is broken.
    """
    return load_named(path, name=name, score="exact", split=split, columns=columns)


def score(response: str, answer: str) -> bool:
    """Whether ``response`` is ``answer``; an empty answer is never right."""
    return bool(answer.split()) and response.split() == answer.split()
