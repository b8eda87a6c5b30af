"""How much an honest registry may send: bytes, items, pages, depth and seconds, each with a name and a way to raise it.

A registry is not trusted, so nothing that it controls may be without an end. The defaults are far beyond what an honest
one needs; whoever has a giant raises one by the environment: ``GUARDRAIL_LIMIT_`` and the name in capitals.
Not covered: enforcing them (``transport.py``, ``pages.py``, ``registry/read/reader.py``,
``registry/mlflow/mlflow_session.py``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from guardrail.errors import InvalidInput

PREFIX = "GUARDRAIL_LIMIT_"


@dataclass(frozen=True)
class AnswerLimits:
    """What one server may take of one command's time and space.

    Args:
        seconds: one answer, from the first byte that is sent to the last that is read; headers included.
        idle_seconds: between two pieces of it.
        slowest: bytes per second of a file, up or down, on average; added to ``seconds``.
        total_seconds: all answers of one command together.
        calls: how many answers that may be.
        answer_bytes: one answer that is no file.
        pages: one list that the server cuts into pages.
        files: files of one model.
        directories: directories of one model, empty ones too.
        bytes: all files of one model.
        ledger_entries: entries of a ledger.
        ledger_bytes: their envelopes together.
    """

    seconds: float = 300.0
    idle_seconds: float = 60.0
    slowest: float = 256.0 * 1024
    total_seconds: float = 2.0 * 3600
    calls: int = 20_000
    answer_bytes: int = 16 << 20
    pages: int = 1000
    files: int = 1000
    directories: int = 1000
    bytes: int = 64 << 30
    ledger_entries: int = 1_000_000
    ledger_bytes: int = 2 << 30

    def file_seconds(self, size: float) -> float:
        """How long a file of this size may take."""
        return self.seconds + size / self.slowest


def limits(environment: Mapping[str, str] = os.environ) -> AnswerLimits:
    """The limits, as the environment raises or lowers them.

    Raises:
        InvalidInput: a value that is no positive, finite number.
    """
    given: dict[str, Any] = {
        field.name: _number(name, value, whole=isinstance(field.default, int))
        for field in fields(AnswerLimits)
        if (value := environment.get(name := variable(field.name)))
    }
    return AnswerLimits(**given)


def variable(name: str) -> str:
    """The environment variable that sets this limit."""
    return PREFIX + name.upper()


def raised_by(name: str) -> str:
    """The next step of a message about this limit."""
    return f"if this is an honest giant, raise {variable(name)}"


def _number(name: str, text: str, *, whole: bool) -> float:
    try:
        found = int(text) if whole else float(text)
    except ValueError:
        found = 0
    if not (math.isfinite(found) and found > 0):
        raise InvalidInput(f"{name} is {text[:100]!r}", expected=f"a positive {'whole ' if whole else ''}number")
    return found
