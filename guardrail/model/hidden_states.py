"""Hidden states of the base model: after the final norm, that is, what its output head reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guardrail.model.chat import encode_prompt, user
from guardrail.model.generate import left_pad
from guardrail.model.load import BaseModel


def body(model: Any) -> Any:
    """The transformer below the output head (whatever the architecture calls it)."""
    return (
        model.get_decoder() if hasattr(model, "get_decoder") and model.get_decoder() is not None else model.base_model
    )


@torch.inference_mode()
def embed(base: BaseModel, texts: Sequence[str], batch_size: int = 64) -> Any:
    """The last hidden state at the end of each request, where the model is about to answer.

    Returns:
        numpy array [texts, hidden], float32.
    """
    import numpy as np

    prompts = [encode_prompt(base.tokenizer, user(text))[-base.context :] for text in texts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    rows: list[Any] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        ids, mask = _right_pad([prompts[i] for i in indices], int(base.tokenizer.pad_token_id or 0))
        states = body(base.model)(input_ids=ids.to(base.device), attention_mask=mask.to(base.device)).last_hidden_state
        ends = states[torch.arange(len(indices)), mask.sum(1) - 1]
        for index, state in zip(indices, ends.float().cpu().numpy(), strict=True):
            rows[index] = state
    return np.stack(rows)


def _right_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padding on the right: without position ids, models of absolute positions (GPT-2) count from the left."""
    ids, mask = left_pad([row[::-1] for row in rows], pad)
    return ids.flip(1), mask.flip(1)
