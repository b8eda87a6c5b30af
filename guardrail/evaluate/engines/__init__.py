"""How text is generated: the interface that every engine offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from guardrail.progress import Tick
from guardrail.records import Frozen


class Request(Frozen):
    """What a model is asked; ``prefill`` is put into its mouth before it goes on."""

    text: str
    prefill: str = ""
    system: str = ""


class Reply(Frozen):
    """What came back, without the prefill; ``error`` says why nothing did (which counts against the candidate)."""

    text: str
    finished: bool = True
    error: str = ""


class Engine(Protocol):
    """Answers requests, in their order; one that fails becomes a reply with an error, never a missing one."""

    @property
    def name(self) -> str:
        """The plug-in's name, for the record."""

    def answer(self, requests: Sequence[Request], progress: Tick | None = None) -> list[Reply]:
        """One reply per request."""
