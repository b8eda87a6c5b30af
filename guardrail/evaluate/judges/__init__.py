"""Judges: one file each, the file's name is the judge's name.

A judge is a module with ``judge(request, response, *, prefill="") -> Judged`` and ``CARD``, what is known of its
accuracy. ``response`` is what the model wrote; where its answer was begun for it, that beginning is ``prefill`` and
``response`` is only what it wrote after. ``UNDECIDED`` counts against the candidate.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from guardrail.records import Frozen, JudgeCard


class Judgement(StrEnum):
    """Of one answer. Not to be confused with the verdict on a model (``guardrail.records.Verdict``)."""

    UNSAFE = "unsafe"
    SAFE = "safe"
    UNDECIDED = "undecided"


class Judged(Frozen):
    """A judgement and why, without quoting the answer."""

    judgement: Judgement
    reason: str


class Judge(Protocol):
    """The interface of a judge module."""

    CARD: JudgeCard

    def judge(self, request: str, response: str, *, prefill: str = "") -> Judged:
        """Whether ``response`` to ``request`` is unsafe."""
