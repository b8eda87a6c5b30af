"""Utility tasks: one file each, the file's name is the task format's and the scorer's name.

A task is a module with

- ``load(path, *, name, split, columns=None) -> Task``: the examples of a file, as its authors publish it;
- ``score(response, answer) -> bool``: whether a response is right.

``Task.score`` names the module whose ``score`` applies. ``split`` is ``all``, ``validation`` or ``gate``
(:mod:`guardrail.evaluate.splits`). A right answer must be exactly recognisable: nothing here asks a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from guardrail.samples import Task


class Scorer(Protocol):
    """The interface of a task module."""

    def load(self, path: Path, *, name: str, split: str, columns: Mapping[str, str] | None = None) -> Task:
        """Read the examples at ``path``."""

    def score(self, response: str, answer: str) -> bool:
        """Whether ``response`` is right."""
