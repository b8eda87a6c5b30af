"""Several rows in one sequence ("bin"), so that short rows beside long ones waste no padding.

Positions start again at each row and no mask is given: transformers (``masking_utils.find_packed_sequence_indices``)
makes a block-diagonal causal mask of that, and no row sees another. Which bases really do so is not assumed but probed
once (:func:`check_packing`). What follows (answers, teachers, totals) has the order of the unpacked batch.

First-fit decreasing: Johnson, *Near-optimal bin packing algorithms*, 1973 (at most about 11/9 of the fewest bins).

Not covered: flash attention, for which transformers looks for packed rows in a batch of one sequence only (the base is
loaded with torch's own attention), and rows that are packed across micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from guardrail.errors import InvalidInput
from guardrail.model.chat import Encoded
from guardrail.train.collate import IGNORED, Batch, pad
from guardrail.train.student import Student

PROBE = (9, 4, 7, 2, 5)
"""Tokens of the rows that a base is probed with: three bins of 9, two of which hold two rows."""


@dataclass(frozen=True)
class Packed:
    """A batch in bins.

    Args:
        ids, positions: [bins, width]; what is left of a bin is a row of its own that nobody reads.
        reads: [answer tokens], the places among bins x width that predict them, in the order of the unpacked batch.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    reads: torch.Tensor

    @property
    def inputs(self) -> tuple[torch.Tensor, None, torch.Tensor]:
        """What :class:`guardrail.train.student.Student` reads."""
        return self.ids, None, self.positions

    def answer_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """The states [answer tokens, hidden] that predict an answer token, in the order of the unpacked batch."""
        return hidden.flatten(0, 1)[self.reads]

    def to(self, device: torch.device) -> Packed:
        """The same on ``device``."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def first_fit_decreasing(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Row numbers by bin: the longest row first, each into the first bin that has room (ties: the lower number first).

    A row of more than ``limit`` tokens has a bin of its own.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = next((place for place, left in enumerate(room) if lengths[row] <= left), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(limit)
        bins[place].append(row)
        room[place] -= lengths[row]
    return bins


def pack(batch: Batch, limit: int) -> Packed:
    """``batch``'s rows in bins of ``limit`` tokens at most, or of the longest row's, to which all are padded anyway."""
    lengths = batch.mask.sum(1).tolist()
    bins = first_fit_decreasing(lengths, max(limit, *lengths))
    width = max(sum(lengths[row] for row in rows) for rows in bins)
    ids = torch.zeros((len(bins), width), dtype=torch.long)
    positions = torch.zeros_like(ids)
    where = torch.zeros_like(batch.ids)  # of each position of the batch, among bins x width
    for number, rows in enumerate(bins):
        start = 0
        for row in rows:
            end = start + lengths[row]
            ids[number, start:end] = batch.ids[row, : lengths[row]]
            positions[number, start:end] = torch.arange(lengths[row])
            where[row, : lengths[row]] = torch.arange(start, end) + number * width
            start = end
        positions[number, start:] = torch.arange(width - start)
    return Packed(ids, positions, where[batch.targets != IGNORED])


@torch.no_grad()
def check_packing(model: Any, tolerance: float = 1e-5) -> None:
    """Compare the final hidden states of packed rows with those of the same rows apart.

    ``tolerance`` holds for a float32 base. In bfloat16 rounding alone comes to a per cent or two: what moves no row by
    more than 5 % is not noticed there.

    Raises:
        InvalidInput: the base lets packed rows see one another, or cannot be told where a row starts.
    """
    batch = pad(
        [_probe(number, length, model.config.get_text_config().vocab_size) for number, length in enumerate(PROBE)]
    )
    training = model.training
    model.eval()
    try:
        error = _error(Student(model), batch, model.device)
    except (TypeError, ValueError, IndexError, RuntimeError) as problem:  # whatever a base says to positions
        raise _refused(model, str(problem).splitlines()[0][:200]) from problem
    finally:
        model.train(training)
    if not error <= (tolerance if model.dtype == torch.float32 else 0.05):
        raise _refused(model, f"a row's hidden states differ by {error:.1e} of their norm from those of the row alone")


def _probe(number: int, length: int, vocabulary: int) -> Encoded:
    """A row all of whose states are compared: each token but the last predicts an "answer"."""
    tokens = [(1 + 11 * number + 3 * place) % vocabulary for place in range(length)]
    return Encoded((tokens[0],), tuple(tokens[1:]))


def _error(student: Student, batch: Batch, device: torch.device) -> float:
    """The norm of the difference over the norm, of the row where it is largest."""
    counts = [length - 1 for length in PROBE]
    apart, packed = (
        form.answer_states(student(*form.inputs)).float().split(counts)
        for form in (batch.to(device), pack(batch, max(PROBE)).to(device))
    )
    return max(float((one - other).norm() / one.norm()) for one, other in zip(apart, packed, strict=True))


def _refused(model: Any, why: str) -> InvalidInput:
    return InvalidInput(
        f"rows cannot be packed for {type(model).__name__}: {why}",
        expected="a base whose attention keeps rows apart where positions start again",
        next_step="train without --packing",
    )
