"""The base with its LoRA layers as one module from token ids to final hidden states: what several processes wrap.

Only positions that predict an answer token are projected to the vocabulary, outside of it, by the frozen head.
"""

from __future__ import annotations

from typing import Any

import torch

from guardrail.model.hidden import body


class Student(torch.nn.Module):
    """ids, mask [rows, width] to final hidden states [rows, width, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The body of the model, after its final norm."""
        states: torch.Tensor = body(self.model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def disable_dropout(model: Any) -> None:
    """Switch the base's dropout off: a method that compares with the base needs a base that answers the same twice."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0
