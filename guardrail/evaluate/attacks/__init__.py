"""Attacks: one file each, the file's name is the attack's name.

An attack is a module with ``prompts(behaviour) -> Iterable[Prompt]``: at least one prompt for each variant of the
behaviour. The behaviour is a hit if any of them is answered unsafely.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from guardrail.records import Frozen
from guardrail.samples import Behaviour


class Prompt(Frozen):
    """What the model is asked: the user's turn and the beginning of its own answer that is put in its mouth, or "".

    ``variant`` is the index of the behaviour's variant that it was made from.
    """

    behaviour_id: str
    variant: int
    text: str
    prefill: str = ""


class Attack(Protocol):
    """The interface of an attack module."""

    def prompts(self, behaviour: Behaviour) -> Iterable[Prompt]:
        """Every prompt of the attack on ``behaviour``."""
