"""The base with its LoRA layers as one module from token ids to final hidden states: what several processes wrap.

Only positions that predict an answer token are projected to the vocabulary, outside of it, by the frozen head.
"""

from __future__ import annotations

from typing import Any

import torch

from guardrail.errors import InvalidInput
from guardrail.model.hidden_states import body


class Student(torch.nn.Module):
    """ids, and their mask or their positions, [rows, width] to final hidden states [rows, width, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The body of the model, after its final norm; positions, without a mask, where rows are packed."""
        placed = {"attention_mask": mask} if positions is None else {"position_ids": positions}
        states: torch.Tensor = body(self.model)(input_ids=ids, **placed, use_cache=False).last_hidden_state
        return states

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def disable_dropout(model: Any) -> None:
    """Switch the base's dropout off: a method that compares with the base needs a base that answers the same twice.

    Modules and the numbers that models hand to functional dropout (``attention_dropout``, ``layerdrop``, ...); whether
    that was all of it is not assumed but tried, in training mode, on a few tokens.

    Raises:
        InvalidInput: the base still answers differently each time.
    """
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float):
                setattr(module, key, 0.0)
    _require_repeatable(model)


@torch.no_grad()
def _require_repeatable(model: Any, tolerance: float = 1e-3) -> None:
    """LoRA's own dropout does not show: the adapter has no effect yet."""
    training = model.training
    model.train()
    ids = torch.arange(1, 9, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    one, other = (body(model)(input_ids=ids, use_cache=False).last_hidden_state.float() for _ in range(2))
    model.train(training)
    if not (one - other).abs().max() <= tolerance * one.abs().max():
        raise InvalidInput(
            f"{type(model).__name__} answers differently each time while it is trained, with its dropout off",
            expected="a base that answers the same twice",
            next_step="set every dropout in its config.json to 0",
        )
