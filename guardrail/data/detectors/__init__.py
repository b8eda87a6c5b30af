"""Poison detectors: one file each, the file's name is the detector's name.

A detector is a module with

- ``detect(samples, context) -> Iterable[Flag]``: the suspicious samples, at most one flag each;
- ``threshold(context) -> float``: the score above which it flags, for the record;
- ``SOURCE``: the paper it comes from.

What a detector needs to know comes in the context: it never loads a model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from guardrail.records import Frozen
from guardrail.samples import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.floating[Any]]
    Embed = Callable[[Sequence[str]], Vectors]


class Flag(Frozen):
    """One suspicious sample: how suspicious on the detector's own scale, and why in words."""

    sample_id: str
    score: float
    reason: str


@dataclass(frozen=True, eq=False)
class Context:
    """What is known beforehand. Equal only to itself, so that a detector may cache what it fits on it.

    Attributes:
        known_harmful: harmful requests (anchors); must not come from a suite that later judges.
        known_benign: benign requests (anchors), as close to the harmful ones as can be had.
        embed: requests -> hidden states of the base model at the end of each, [n, hidden].
    """

    known_harmful: tuple[str, ...]
    known_benign: tuple[str, ...]
    embed: Embed


class Detector(Protocol):
    """The interface of a detector module."""

    SOURCE: str

    def detect(self, samples: Sequence[Sample], context: Context) -> Iterable[Flag]:
        """The suspicious samples."""

    def threshold(self, context: Context) -> float:
        """The score above which a sample is flagged."""
