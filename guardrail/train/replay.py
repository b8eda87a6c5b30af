"""The replay buffer: the aligned base's own answers to safety prompts, and its hidden states on them.

Rows are drawn with a generator of their own, so that the user data's order does not depend on the method. The teacher
is the base *before* an adapter is attached: nothing trained can leak into it, and no teacher forward runs while
training. Not covered: a buffer that grows with the user's stream (reservoir sampling), memory-mapped caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import digest
from guardrail.model.chat import Encoded, encode_prompt, end_token, user
from guardrail.model.generate import generate
from guardrail.model.hidden import body
from guardrail.model.load import BaseModel
from guardrail.train.collate import Batch, pad

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replay:
    """Encoded rows, and the teacher's hidden states at the positions that predict each answer token."""

    rows: tuple[Encoded, ...]
    hidden: tuple[torch.Tensor, ...]
    digest: str

    def draw(self, size: int, generator: torch.Generator) -> tuple[Batch, torch.Tensor]:
        """A batch of ``size`` rows (without replacement where there are enough) and their teacher states.

        Returns:
            the padded batch, and [answer tokens of the batch, hidden] in the order of ``Batch.answer_states``.
        """
        order = torch.randperm(len(self.rows), generator=generator)
        repeats = -(-size // len(self.rows))
        chosen = order.repeat(repeats)[:size].tolist()
        return pad([self.rows[i] for i in chosen]), torch.cat([self.hidden[i] for i in chosen])


def require_prompts(prompts: Sequence[str]) -> None:
    """Raise InvalidInput where a method that replays has nothing to replay."""
    if not prompts:
        raise InvalidInput(
            "the method replays, but there are no replay prompts",
            next_step="give --replay FILE (JSONL with a 'prompt' field), or use a method without replay",
        )


def self_generate(base: BaseModel, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int = 128,
                  progress: Progress | None = None) -> Replay:  # fmt: skip
    """Ask the base every prompt, keep its answers, and cache its hidden states on them.

    Raises:
        InvalidInput: there are no prompts.
    """
    require_prompts(prompts)
    encoded = [encode_prompt(base.tokenizer, user(prompt)) for prompt in prompts]
    answers = generate(base, encoded, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress)
    end = (end_token(base.tokenizer),)
    texts = [base.tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in answers]
    rows = tuple(
        Encoded(prompt, (*tokens, *(end if answer.finished else ())))
        for prompt, tokens, answer in zip(encoded, texts, answers, strict=True)
        if tokens or answer.finished
    )
    if not rows:
        raise InvalidInput("the base answered none of the replay prompts", expected="at least one answer to replay")
    return Replay(rows, teacher_states(base, rows), digest([[list(row.prompt), list(row.answer)] for row in rows]))


@torch.no_grad()
def teacher_states(base: BaseModel, rows: Sequence[Encoded], batch_size: int = 64) -> tuple[torch.Tensor, ...]:
    """The base's hidden states [answer tokens, hidden] of each row, on the CPU, dropout off."""
    base.model.eval()
    states: list[torch.Tensor] = []
    for start in range(0, len(rows), batch_size):
        batch = pad(rows[start : start + batch_size]).to(base.device)
        hidden = body(base.model)(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        counts = [len(row.answer) for row in rows[start : start + batch_size]]
        states.extend(batch.answer_states(hidden).cpu().split(counts))
    return tuple(states)
