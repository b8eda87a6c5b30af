"""The replay buffer: the aligned base's own answers to safety prompts, and which of them each step draws.

A draw is a function of seed, step and draw number alone: a run that resumes, or that is spread over processes, replays
the same rows. Rows are drawn without replacement until all have been drawn, then in a new order.

Not covered: a buffer that grows with the user's stream (reservoir sampling).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import InvalidInput
from guardrail.evidence.digest import digest, sha256
from guardrail.model.chat import Encoded, encode_prompt, user
from guardrail.model.generate import generate, lacks_room
from guardrail.model.load import BaseModel
from guardrail.progress import Done
from guardrail.train import sealed_cache
from guardrail.train.memory import halving


@dataclass(frozen=True)
class ReplayRows:
    """Rows with the base's own answers."""

    rows: tuple[Encoded, ...]
    digest: str

    def draw(self, start: int, count: int, *, seed: int, number: int = 0) -> list[int]:
        """Rows ``start`` to ``start + count`` of the endless sequence of draws.

        Args:
            start: how many rows were drawn before.
            count: how many to draw.
            seed: of the run.
            number: of the draw, where a step has several that are independent.
        """
        chosen: list[int] = []
        while count:
            epoch, at = divmod(start, len(self.rows))
            part = _order(len(self.rows), epoch, seed, number)[at : at + count]
            chosen += part
            start, count = start + len(part), count - len(part)
        return chosen


@lru_cache(maxsize=16)
def _order(size: int, epoch: int, seed: int, number: int) -> tuple[int, ...]:
    """The order in which an epoch draws; a step needs a few of it, so it is not made for each step again."""
    mixed = int(sha256(f"replay {seed} {number} {epoch}".encode())[:15], 16)
    return tuple(torch.randperm(size, generator=torch.Generator().manual_seed(mixed)).tolist())


def require_prompts(prompts: Sequence[str]) -> None:
    """Raise InvalidInput where a method that replays has nothing to replay."""
    if not prompts:
        raise InvalidInput(
            "the method replays, but there are no replay prompts",
            next_step="give --replay FILE (JSONL with a 'prompt' field), or use a method without replay",
        )


def self_generate(
    base: BaseModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    cache: Path,
    batch_size: int = 128,
    progress: Done | None = None,
) -> ReplayRows:
    """Ask the base every prompt that leaves room for an answer, and keep its answers.

    Raises:
        InvalidInput: there are no prompts, or the base answers none.
        ServiceUnavailable: the cache cannot be written.
    """
    require_prompts(prompts)
    made_from = {
        "base": base.ref.digest,
        "prompts": digest(list(prompts)),
        "max_new_tokens": max_new_tokens,
        "device": str(base.device),
    }
    path = cache / f"{digest(made_from)}.rows.json"
    if sealed_cache.whole(path):
        rows = tuple(Encoded(tuple(prompt), tuple(answer)) for prompt, answer in json.loads(nofollow.read(path) or b""))
    else:
        rows = halving(batch_size, lambda size: _answered(base, prompts, max_new_tokens, size, progress))
        write_atomically(path, json.dumps([[row.prompt, row.answer] for row in rows]).encode())
        sealed_cache.seal(path)
    if not rows:
        raise InvalidInput("the base answered none of the replay prompts", expected="at least one answer to replay")
    return ReplayRows(rows, digest([[list(row.prompt), list(row.answer)] for row in rows]))


def _answered(
    base: BaseModel, prompts: Sequence[str], max_new_tokens: int, batch_size: int, progress: Done | None
) -> tuple[Encoded, ...]:
    encoded = [encode_prompt(base.tokenizer, user(prompt)) for prompt in prompts]
    encoded = [prompt for prompt in encoded if not lacks_room(base, prompt, max_new_tokens)]
    answers = generate(base, encoded, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress)
    # the tokens that the base chose, its own way of ending included: text would not always be tokenised to them again
    return tuple(Encoded(prompt, a.tokens) for prompt, a in zip(encoded, answers, strict=True) if a.tokens)
