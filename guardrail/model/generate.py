"""Batched greedy generation: sorted by length, left-padded, the same code on CPU and CUDA.

Greedy, because a gate must be reproducible. An answer does not depend on what else is in its batch: positions count
from each row's own first token, padding takes no context, and every row may use all of ``max_new_tokens``.
Sampling attacks (many draws per prompt) are not covered here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from guardrail.errors import InvalidInput
from guardrail.model.chat import end_token
from guardrail.model.load import BaseModel
from guardrail.progress import Done


@dataclass(frozen=True)
class GeneratedAnswer:
    """A generated answer: its text, whether it ended before the length limit, and its tokens, the ending one too."""

    text: str
    finished: bool
    tokens: tuple[int, ...] = ()


def generate(
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    model: Any = None,
    progress: Done | None = None,
) -> list[GeneratedAnswer]:
    """Answers to ``prompts`` (token ids), in their order.

    Args:
        base: tokenizer, device and (unless ``model`` is given) the model.
        prompts: token ids of each prompt.
        max_new_tokens: the longest answer.
        batch_size: rows in one forward pass.
        model: the model to ask, such as the base with an adapter.

    Raises:
        InvalidInput: a prompt and the longest answer exceed the base's context; :func:`lacks_room` tells before.
    """
    if reason := next(filter(None, (lacks_room(base, prompt, max_new_tokens) for prompt in prompts)), ""):
        raise InvalidInput(reason, next_step="shorten the prompt, ask for shorter answers, or leave the prompt out")
    answers: list[GeneratedAnswer | None] = [None] * len(prompts)
    for indices in _batches(prompts, batch_size):
        for index, answer in zip(
            indices, _answer(base, model or base.model, [prompts[i] for i in indices], max_new_tokens), strict=True
        ):
            answers[index] = answer
        if progress:
            progress(len(indices), len(prompts))
    return [answer for answer in answers if answer is not None]


def lacks_room(base: BaseModel, prompt: Sequence[int], max_new_tokens: int) -> str:
    """Why a prompt cannot be answered in ``max_new_tokens`` within the base's context, or "" where it can."""
    if len(prompt) + max_new_tokens <= base.context:
        return ""
    return (
        f"the prompt fills {len(prompt)} of the context's {base.context} tokens: "
        f"no room for an answer of {max_new_tokens}"
    )


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def _answer(base: BaseModel, model: Any, prompts: list[Sequence[int]], max_new_tokens: int) -> list[GeneratedAnswer]:
    ids, mask = left_pad(prompts, int(base.tokenizer.pad_token_id or 0))
    end = stop_tokens(base)
    output = model.generate(
        input_ids=ids.to(base.device),
        attention_mask=mask.to(base.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        min_length=0,  # this and the next two in a base's generation_config.json would count padding, or seconds
        encoder_repetition_penalty=None,
        max_time=None,
        pad_token_id=base.tokenizer.pad_token_id,
        eos_token_id=end,
    )[:, ids.shape[1] :].tolist()
    return [_decode(base, row, set(end)) for row in output]


def _decode(base: BaseModel, row: list[int], end: set[int]) -> GeneratedAnswer:
    stop = next((i for i, token in enumerate(row) if token in end), None)
    text = base.tokenizer.decode(row[:stop], skip_special_tokens=True)
    tokens = row if stop is None else row[: stop + 1]
    return GeneratedAnswer(str(text), stop is not None, tuple(tokens))


def stop_tokens(base: BaseModel) -> list[int]:
    """Every token that ends an answer: the tokenizer's and those of the generation configuration."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    extra = configured if isinstance(configured, list) else [configured]
    return sorted({end_token(base.tokenizer), *(token for token in extra if isinstance(token, int))})


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both [rows, longest]; the padding stands on the left, as generation needs it."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(list(row))
        mask[index, width - len(row) :] = 1
    return ids, mask
