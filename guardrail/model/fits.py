"""What only the base can tell of an adapter: that its layers are linear layers of this base, and all that it targets.

peft leaves a module that is targeted, but has no tensors, with whatever it was initialised with, and passes over
tensors for modules that are not there. Not covered: what the files alone tell (``guardrail.evidence.adapter.lora``).
"""

from __future__ import annotations

from typing import Any

import torch

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.lora import PlainLora
from guardrail.evidence.adapter.lora_settings import CONFIG


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """[out, in] of every linear layer but the output head, by name."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {name: _shape(module) for name, module in model.named_modules() if is_linear(module) and module is not head}


def is_linear(module: Any) -> bool:
    """Whether a LoRA of linear layers can be put on the module."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def require_fitting(model: Any, lora: PlainLora) -> None:
    """The adapter's layers are linear layers of this bare base, and exactly those that its configuration targets.

    Raises:
        EvidenceInvalid: a module is not there, is no linear layer, has another shape, or is targeted without tensors.
    """
    linear = linear_layers(model)
    targeted = {name for name, _ in model.named_modules() if lora.settings.targets_of(name)}
    for name in sorted(targeted ^ lora.layers.keys()):
        found = f"it targets {name} without tensors" if name in targeted else f"tensors for {name}, not in the base"
        raise _refusal(found, "A and B for each targeted layer of the base, and no others")
    for name, layer in lora.layers.items():
        if name not in linear:
            raise _refusal(f"{name} is no linear layer below the output head", ", ".join(sorted(linear))[:300])
        if linear[name] != (layer.outputs, layer.inputs):
            raise _refusal(f"[{layer.outputs}, {layer.inputs}] for {name}", f"{[*linear[name]]}, as in the base")
    _require_orientation(model, lora)


def _require_orientation(model: Any, lora: PlainLora) -> None:
    """GPT-2's layers hold their weight transposed; peft corrects a wrong setting, other readers may not."""
    stated = lora.settings.fan_in_fan_out
    if stated not in {not isinstance(model.get_submodule(name), torch.nn.Linear) for name in lora.layers}:
        raise _refusal(f"{CONFIG} says fan_in_fan_out={stated}", f"{not stated}, as the layers of the base are")


def _shape(module: Any) -> tuple[int, int]:
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, torch.nn.Linear) else (columns, rows)


def _refusal(found: str, expected: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the adapter does not fit the base: {found}",
        expected=expected,
        next_step="train it on this base: an adapter must be measured as its files say, completely",
    )
