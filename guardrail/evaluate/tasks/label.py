"""Labels: the first line of the response must be the label, alone or after a word such as ``Sentiment:``.

Case and punctuation at the ends do not count. A response that discusses several labels before it chooses is wrong:
without the list of labels nothing could tell which one it means (``sst2`` knows its two labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guardrail.evaluate.tasks._build import load_named
from guardrail.samples import Task

_PUNCTUATION = " \t\r\n.,;:!?\"'`*()[]{}<>"


def load(path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
    """Read a file of prompts with labels.

    Raises:
        InvalidInput: a column is missing or a row is broken.
    """
    return load_named(path, name=name, score="label", split=split, columns=columns)


def score(response: str, answer: str) -> bool:
    """Whether the first line of ``response`` is the label ``answer``; an empty label is never right."""
    lines = response.strip().splitlines()
    first = lines[0] if lines else ""
    right = _plain(answer)
    return bool(right) and right in (_plain(first), _plain(first.partition(":")[2]))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_PUNCTUATION)
