"""What is measured is what the files say: the adapter that peft loaded, compared with them on the base's weights.

Every adapted layer is peft's plain one around the very layer of the base and holds exactly the factors of the file; on
an ordinary prompt, or on random input where the prompt does not reach it (an expert), its output is that of the base
plus scale * B A x; every other module is the base's own, no hook was installed, and no weight of the base changed.

Cost: the base's weights are read twice more and the adapter's twice, and one prompt is run; memory of one layer at a
time. Not covered: what peft does later (generation keeps the same layers), and other programs that serve the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.lora import WEIGHTS, PlainLora, tensor_name
from guardrail.model.chat import encode_prompt, user
from guardrail.model.load import BaseModel

PLAIN = "peft.tuners.lora.layer.Linear"
ADAPTER = "default"
PROMPT = "What is the capital of France?"
"""An ordinary prompt."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Bare:
    """A base before an adapter is loaded: its modules by name, their hooks, and the sum of the bits of each tensor."""

    modules: Mapping[str, Any]
    hooks: Mapping[str, int]
    sums: Mapping[str, int]

    @classmethod
    def of(cls, model: Any) -> Bare:
        """The model as it is now."""
        modules = dict(model.named_modules())
        hooks = {name: _hooks(module) for name, module in modules.items()}
        return cls(modules, hooks, {name: _sum(tensor) for name, tensor in _tensors(modules)})


@torch.no_grad()
def require_served(base: BaseModel, bare: Bare, model: Any, lora: PlainLora, directory: Path) -> None:
    """``model``, the base with the adapter in ``directory``, computes the base plus the file's dW, and nothing else.

    Raises:
        EvidenceInvalid: the first difference.
    """
    inside = model.get_base_model()
    _require_untouched(bare, inside, lora)
    layers = {name: inside.get_submodule(name) for name in lora.layers}
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            factors = {name: _Factors(file, name) for name in lora.layers}
            for name, layer in layers.items():
                _require_layer(name, layer, lora.layers[name].scale, factors[name])
            for name, seen in _watched(base, model, layers).items():
                scale = lora.layers[name].scale
                _require_output(name, layers[name].get_base_layer(), scale, seen, *factors[name].read())
    except (OSError, SafetensorError) as error:
        raise _refusal(f"{WEIGHTS} cannot be read ({error})", "the file that was loaded") from error


@dataclass(frozen=True)
class _Factors:
    """A and B of one module, read when they are asked for."""

    file: Any
    name: str

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A [rank, in] and B [out, rank]."""
        a, b = (self.file.get_tensor(tensor_name(self.name, factor)) for factor in "AB")
        return a, b


def _require_untouched(bare: Bare, model: Any, lora: PlainLora) -> None:
    """Every module is the base's own, but for the adapter's layers, each of which is around the base's own."""
    seen = {}
    for name, module in bare.modules.items():
        found = model.get_submodule(name) if name else model
        own = found.get_base_layer() if name in lora.layers and hasattr(found, "get_base_layer") else found
        if own is not module or (name in lora.layers) != (found is not own):
            raise _refusal(f"{name or 'the model'} is not the base's", "a plain layer around the base's own")
        if _hooks(own) != bare.hooks[name] or (found is not own and _hooks(found)):
            raise _refusal(f"{name or 'the model'} has a hook", "none but the base's")
        seen[name] = own
    adapted = tuple(f"{name}." for name in lora.layers)
    strange = [name for name, _ in model.named_modules() if name not in seen and not name.startswith(adapted)]
    if strange:
        raise _refusal(f"{strange[0]} was added", "the base's modules")
    changed = [name for name, tensor in _tensors(seen) if _sum(tensor) != bare.sums.get(name)]
    if changed:
        raise _refusal(f"{changed[0]} of the base was changed", "the base's weights as they were")


def _require_layer(name: str, served: Any, scale: float, factors: _Factors) -> None:
    """peft's plain layer, with one adapter, which is on, and the file's factors; float32 holds all of them exactly."""
    kind = f"{type(served).__module__}.{type(served).__qualname__}"
    state = {
        "kind": (kind, PLAIN),
        "own forward": ("forward" in vars(served), False),
        "variant": (dict(getattr(served, "lora_variant", {})), {}),
        "adapters": ([*served.lora_A, *served.lora_B], [ADAPTER, ADAPTER]),
        "active": (list(served.active_adapters), [ADAPTER]),
        "disabled": (bool(served.disable_adapters), False),
        "merged": (list(served.merged_adapters), []),
        "scale": (served.scaling.get(ADAPTER), scale),
        "trained bias": (served.lora_B[ADAPTER].bias is not None if ADAPTER in served.lora_B else None, False),
    }
    for what, (found, expected) in state.items():
        if found != expected:
            raise _refusal(f"{name}: {what} {found!r}", f"{expected!r}")
    for loaded, stored in zip((served.lora_A, served.lora_B), factors.read(), strict=True):
        if not torch.equal(loaded[ADAPTER].weight.detach().cpu().float(), stored.float()):
            raise _refusal(f"{name}: other factors than those of {WEIGHTS}", "exactly the file's")


def _require_output(name: str, base_layer: Any, scale: float, seen: _Seen, a: torch.Tensor, b: torch.Tensor) -> None:
    """The layer gave the base's output plus scale * B A x, up to the rounding of the types it computes in."""
    x, got = seen.given.float(), seen.output.float()
    base = base_layer(seen.given).float()
    added = scale * (x @ a.to(x).T @ b.to(x).T)
    most = abs(scale) * (x.abs() @ a.to(x).abs().T @ b.to(x).abs().T)
    rounding = 1e-4 if seen.output.dtype == torch.float32 else 2.0**-6
    room = rounding * torch.maximum(base.abs().max(), (base + added).abs().max()) + 1e-3 * most.max()
    if not float((got - base - added).abs().max()) <= float(room):
        raise _refusal(f"{name}: the output is not the base's plus {scale:g} B A x", "what the files say")


@dataclass(frozen=True)
class _Seen:
    """What a layer was given [rows, in] and gave [rows, out]."""

    given: torch.Tensor
    output: torch.Tensor


def _watched(base: BaseModel, model: Any, layers: Mapping[str, Any]) -> dict[str, _Seen]:
    """Every adapted layer on an ordinary prompt, or on random input where the prompt does not reach it."""
    found: dict[str, _Seen] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            found.setdefault(name, _Seen(given[0].flatten(0, -2).clone(), output.flatten(0, -2).clone()))

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        prompt = encode_prompt(base.tokenizer, user(PROMPT))[: base.context]
        model(input_ids=torch.tensor([prompt], device=base.device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] if name in found else _on_random(layer) for name, layer in layers.items()}


def _on_random(layer: Any) -> _Seen:
    weight = layer.get_base_layer().weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, layer.in_features, generator=generator).to(weight)
    return _Seen(x, layer(x))


def _tensors(modules: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, module in modules.items():
        for kind in (module._parameters, module._buffers):
            yield from ((f"{name}.{key}", tensor) for key, tensor in kind.items() if tensor is not None)


def _sum(tensor: torch.Tensor) -> int:
    """The sum of a tensor's bits, read as whole numbers: exact, in any order, without a copy."""
    flat = tensor.detach().contiguous().reshape(-1).view(_INTEGERS[min(8, tensor.element_size())])
    return int(flat.sum(dtype=torch.int64))


def _hooks(module: Any) -> int:
    return sum(len(getattr(module, kind, {})) for kind in _HOOKS)


def _refusal(found: str, expected: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the adapter is not served as its files say: {found}",
        expected=expected,
        next_step="report the version of peft and the architecture: nothing else can be measured for the files",
    )
