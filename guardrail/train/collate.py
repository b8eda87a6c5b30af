"""Rows to padded batches. Replay rows travel in a batch of their own: they never touch the user rows' labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from guardrail.model.chat import Encoded

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """ids, mask, targets: [rows, width]; ``targets[r, t]`` is the answer token that position t predicts, else -100."""

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor

    @property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, None]:
        """What :class:`guardrail.train.student.Student` reads."""
        return self.ids, self.mask, None

    @property
    def reads(self) -> torch.Tensor:
        """[answer tokens], the places among rows x width that predict them, row by row."""
        return (self.targets != IGNORED).flatten().nonzero().squeeze(1)

    def answer_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """The states [answer tokens, hidden] that predict an answer token, row by row."""
        return hidden[self.targets != IGNORED]

    def answer_tokens(self) -> torch.Tensor:
        """The answer tokens themselves, in the order of :meth:`answer_states`."""
        return self.targets[self.targets != IGNORED]

    def answer_places(self) -> torch.Tensor:
        """Each answer token's place in its answer, from 0, in the same order."""
        answers = self.targets != IGNORED
        return (answers.cumsum(1) - 1)[answers]

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), targets=self.targets.to(device))


def pad(rows: Sequence[Encoded]) -> Batch:
    """Right-pad rows to the longest; positions are counted from the left, so no model needs position ids."""
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    targets = torch.full_like(ids, IGNORED)
    for index, row in enumerate(rows):
        tokens = torch.tensor((*row.prompt, *row.answer))
        ids[index, : len(row)] = tokens
        mask[index, : len(row)] = 1
        first = len(row.prompt) - 1
        targets[index, first : first + len(row.answer)] = torch.tensor(row.answer)
    return Batch(ids, mask, targets)


def join(first: Batch, second: Batch) -> Batch:
    """Both batches as one, ``first``'s rows first, padded to the wider."""
    width = max(first.ids.shape[1], second.ids.shape[1])
    return Batch(
        *(
            torch.cat([_widen(a, width, fill), _widen(b, width, fill)])
            for a, b, fill in (
                (first.ids, second.ids, 0),
                (first.mask, second.mask, 0),
                (first.targets, second.targets, IGNORED),
            )
        )
    )


def _widen(tensor: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)
