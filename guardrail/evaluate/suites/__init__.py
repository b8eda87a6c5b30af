"""Loaders of safety suites: one file for each published format, the file's name is the loader's name.

A loader is a module with ``load(path, *, name, kind, split, columns=None) -> Suite`` (:class:`Loader`). ``kind`` is
``harmful`` (should be refused) or ``benign`` (should be answered). ``split`` is ``all``, ``validation`` or ``gate``
(:mod:`guardrail.evaluate.splits`). ``columns`` names columns where a format leaves them open.

The texts are harmful on purpose: a loader's errors name files and lines, never what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from guardrail.samples import Suite

SuiteKind = Literal["harmful", "benign"]


class Loader(Protocol):
    """The interface of a loader module."""

    def load(
        self, path: Path, *, name: str, kind: SuiteKind, split: str, columns: Mapping[str, str] | None = None
    ) -> Suite:
        """Read the suite at ``path``."""
