"""The direction of alignment in weight space, and an update's projection onto it: what Safe LoRA is made of.

V = W_aligned - W_unaligned, one module's at a time, in float32 on the CPU, [out, in] whatever the layout of the base's
weight; C = V V' / ||V||_F. W_aligned is the base's weight. W_unaligned comes from a model of the same architecture, or
V from an adapter that takes the alignment away. Source: Hsu et al., "Safe LoRA", NeurIPS 2024 (arXiv 2405.16833).

Not covered: models in anything but safetensors, quantised weights, checkpoints whose names differ from the loaded
model's by more than the body's prefix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from guardrail.errors import InternalError, InvalidInput
from guardrail.evidence.adapter.lora_settings import CONFIG
from guardrail.model.updates import Update, read_updates

Direction = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Module:
    """The base's weight of an adapted module; ``transposed``: it is [in, out], as GPT-2's are."""

    weight: torch.Tensor
    transposed: bool

    def minus(self, other: torch.Tensor) -> torch.Tensor:
        """W - other [out, in], both as the base would load them: what only rounding tells apart is the same."""
        same = other.to(self.weight.dtype).float()
        difference = self.weight.detach().to("cpu").float() - same
        return difference.T if self.transposed else difference


def adapted(model: Any) -> dict[str, Module]:
    """The modules of a base that LoRA adapts, by their names in the base."""
    return {
        name: Module(module.base_layer.weight, type(module.base_layer).__name__ == "Conv1D")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


def directions(unaligned: Path, modules: Mapping[str, Module], prefix: str) -> Direction:
    """What gives V = W_aligned - W_unaligned [out, in], float32, of a module at a time.

    Args:
        unaligned: an adapter, or a model in safetensors.
        modules: the base's adapted modules by name.
        prefix: of the body in the base's names, which checkpoints may lack.

    Raises:
        InvalidInput: the directory holds neither an adapter nor a model with these modules, or of other shapes.
    """
    if (unaligned / CONFIG).exists():
        return _of_adapter(unaligned, modules)
    return _of_model(unaligned, modules, prefix)


def _of_adapter(unaligned: Path, modules: Mapping[str, Module]) -> Direction:
    away = read_updates(unaligned)
    found = {name: (update.b.shape[0], update.a.shape[1]) for name, update in away.items()}
    expected = {
        name: tuple(module.weight.shape[::-1] if module.transposed else module.weight.shape)
        for name, module in modules.items()
    }
    _check_shapes(unaligned, expected, found)
    return lambda name: -away[name].dense.float()


def _of_model(unaligned: Path, modules: Mapping[str, Module], prefix: str) -> Direction:
    files = {
        key: (file, shape) for file in sorted(unaligned.glob("*.safetensors")) for key, shape in _shapes(file).items()
    }
    names = ((name, f"{name}.weight", f"{name}.weight".removeprefix(f"{prefix}.")) for name in modules)
    keys = {name: whole if whole in files else bare for name, whole, bare in names}
    found = {name: files[key][1] for name, key in keys.items() if key in files}
    _check_shapes(unaligned, {name: tuple(module.weight.shape) for name, module in modules.items()}, found)

    def direction(name: str) -> torch.Tensor:
        with safe_open(files[keys[name]][0], framework="pt") as stream:
            return modules[name].minus(stream.get_tensor(keys[name]))

    return direction


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as stream:
            return {key: tuple(stream.get_slice(key).get_shape()) for key in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"safe_lora: cannot read {file}: {error}", expected="a file in safetensors") from error


def _check_shapes(unaligned: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any]) -> None:
    wrong = [name for name, shape in expected.items() if found.get(name) != shape]
    if wrong:
        raise InvalidInput(
            f"safe_lora: {unaligned} has no weights {list(expected[wrong[0]])} for {wrong[0]}"
            f" and {len(wrong) - 1} other modules",
            expected="an adapter on the same modules, or a model of the base's architecture, in safetensors",
        )


def project(update: Update, direction: torch.Tensor, threshold: float, scale: str = "paper") -> Update:
    """C dW where its cosine with dW is below ``threshold``, else the very same update.

    Args:
        update: dW = s B A.
        direction: V [out, in].
        threshold: a cosine; C is positive semi-definite, so that it is in [0, 1].
        scale: ``paper``: C dW as it is; ``norm``: rescaled to ||dW||.
    """
    if update.b.shape[0] != direction.shape[0] or update.a.shape[1] != direction.shape[1]:
        raise InternalError(f"safe_lora: {tuple(direction.shape)} is not the shape of dW")
    length = direction.norm()
    if not float(length) > 0:
        return update
    b = update.b.float()
    projected = direction @ (direction.T @ b) / length
    own, moved = _norm(b, update.a), _norm(projected, update.a)
    if own == 0 or (moved > 0 and _product(b, projected, update.a) >= threshold * own * moved):
        return update
    if scale == "norm" and moved > 0:
        projected *= own / moved
    return Update(update.a, projected.to(update.b.dtype), update.scale)


def _product(first: torch.Tensor, second: torch.Tensor, a: torch.Tensor) -> float:
    """<X A, Y A> of two matrices that share A, without making either: tr(X'Y A A')."""
    return float(((first.double().T @ second.double()) * (a.double() @ a.double().T)).sum())


def _norm(b: torch.Tensor, a: torch.Tensor) -> float:
    return math.sqrt(max(0.0, _product(b, b, a)))
