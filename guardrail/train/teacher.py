"""The teacher's hidden states: computed once, kept in a memory-mapped file that is named by what it was made from.

The teacher is the base *before* an adapter is attached: nothing trained can leak into it, and no teacher forward runs
while training. States are kept in the base's own precision (bfloat16 or float32), one row for each answer token.

Not covered: protection against whoever can write the file (the run directory is trusted while it is worked in).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

from guardrail.errors import ServiceUnavailable
from guardrail.evidence.digest import digest
from guardrail.model.chat import Encoded
from guardrail.model.hidden_states import body
from guardrail.model.load import BaseModel
from guardrail.train import sealed_cache
from guardrail.train.collate import pad
from guardrail.train.memory import halving


@dataclass(frozen=True)
class TeacherStates:
    """States [answer tokens, hidden] of rows, in the order of the rows; ``starts`` has one more entry than rows."""

    states: torch.Tensor
    starts: tuple[int, ...]

    def of(self, rows: Sequence[int]) -> torch.Tensor:
        """The states [answer tokens, hidden] of the rows with these numbers, row by row."""
        if not rows:
            return self.states[:0]
        return torch.cat([self.states[self.starts[row] : self.starts[row + 1]] for row in rows])


def teacher_states(base: BaseModel, rows: Sequence[Encoded], cache: Path, batch_size: int = 64) -> TeacherStates:
    """The base's states at the positions that predict ``rows``' answer tokens, from ``cache`` where they are there.

    Raises:
        ServiceUnavailable: the cache cannot be written.
    """
    starts = tuple(accumulate((len(row.answer) for row in rows), initial=0))
    hidden = base.model.config.get_text_config().hidden_size
    path = cache / f"{_key(base, rows)}.states"
    if not sealed_cache.whole(path):
        try:
            halving(batch_size, lambda size: _write(base, rows, path, size))
            sealed_cache.seal(path)
        except OSError as error:
            raise ServiceUnavailable(f"cannot write {path}: {error.strerror}", next_step="free space") from error
    return TeacherStates(_mapped(path, base.model.dtype, (starts[-1], hidden)), starts)


def _key(base: BaseModel, rows: Sequence[Encoded]) -> str:
    tokens = digest([[list(row.prompt), list(row.answer)] for row in rows])
    return digest({"base": base.ref.digest, "rows": tokens, "dtype": str(base.model.dtype), "device": str(base.device)})


@torch.no_grad()
def _write(base: BaseModel, rows: Sequence[Encoded], path: Path, batch_size: int) -> None:
    """Dropout off; the file appears whole or not at all."""
    base.model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        for start in range(0, len(rows), batch_size):
            batch = pad(rows[start : start + batch_size]).to(base.device)
            states = body(base.model)(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
            found = batch.answer_states(states).to(base.model.dtype).cpu().contiguous()
            stream.write(found.view(torch.uint8).numpy().tobytes())
        stream.flush()
        os.fsync(stream.fileno())
    Path(stream.name).replace(path)


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, int]) -> torch.Tensor:
    if not shape[0]:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=dtype).view(shape)
