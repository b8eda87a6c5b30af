"""The one door for adapters: a plain LoRA whose files say completely what it adds to the base, and nothing else.

Everywhere an adapter comes in (evaluation, promotion, the gated server, verification, pull, candidates, merges) it
passes :func:`read_lora`: a configuration from the closed list (``lora_settings.py``), and for each adapted layer
exactly A [rank, in] and B [out, rank], finite, of one type, under the one name that peft reads. So dW = scale * B A is
determined, and a tensor that is not served cannot hide.

Not covered: what only the base can tell, whether these are its layers and all that the configuration targets
(``guardrail.model.served`` asks that where the base is, and compares what peft loaded).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.finite_values import require_finite
from guardrail.evidence.adapter.lora_settings import CONFIG, LARGEST_SCALE, LoraSettings, plain_name, read_settings
from guardrail.evidence.adapter.safetensors_header import TensorEntry, read_header

WEIGHTS: Final = "adapter_model.safetensors"
FILES: Final = (CONFIG, WEIGHTS)
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class LoraLayer:
    """What the adapter adds to one linear layer: dW = scale * B A, with A [rank, inputs] and B [outputs, rank]."""

    rank: int
    inputs: int
    outputs: int
    scale: float


@dataclass(frozen=True)
class PlainLora:
    """An adapter that was let through: its settings and its layers, by the module's name in the base, sorted."""

    settings: LoraSettings
    layers: Mapping[str, LoraLayer]


def tensor_name(module: str, factor: str) -> str:
    """The name under which peft keeps the factor ``A`` or ``B`` of a module's adapter."""
    return f"base_model.model.{module}.lora_{factor}.weight"


def read_lora(directory: Path) -> PlainLora:
    """The adapter in ``directory``, all of its values read once; other files there are not looked at.

    Raises:
        EvidenceInvalid: the first thing that is not as the module says.
    """
    settings = read_settings(directory)
    path = directory / WEIGHTS
    tensors = read_header(path)
    layers = {module: _layer(settings, module, factors) for module, factors in sorted(_paired(tensors).items())}
    _require_targeted(settings, layers)
    require_finite(path, tensors)
    return PlainLora(settings, MappingProxyType(layers))


def read_adapter(directory: Path) -> PlainLora:
    """The adapter in ``directory``, which holds nothing else; what is refused names the directory.

    Raises:
        EvidenceInvalid: see :func:`read_lora` and :func:`require_only`.
    """
    try:
        require_only(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
        return read_lora(directory)
    except EvidenceInvalid as error:
        found = f"the adapter in {directory}: {error.got}"
        raise EvidenceInvalid(found, expected=error.expected, next_step=error.next_step) from error


def require_only(names: Iterable[str]) -> None:
    """An adapter's files are these two: another one may be read by whoever loads it, and was not evaluated.

    Raises:
        EvidenceInvalid: one is missing, or there are others.
    """
    found = sorted(names)
    if found != sorted(FILES):
        raise EvidenceInvalid(
            f"the adapter's files are {found!a:.300}",
            expected=f"exactly {sorted(FILES)}",
            next_step="train with guardrail, which writes these two; chat template and tokenizer are the base's",
        )


def _paired(tensors: tuple[TensorEntry, ...]) -> dict[str, dict[str, TensorEntry]]:
    """Module to factor to tensor."""
    found: dict[str, dict[str, TensorEntry]] = {}
    for tensor in tensors:
        match = _KEY.fullmatch(tensor.name)
        if match is None or not plain_name(match["module"]):
            raise _refusal(f"a tensor called {tensor.name!a:.200}", f"only {tensor_name('MODULE', 'A')} and lora_B")
        found.setdefault(match["module"], {})[match["factor"]] = tensor
    if not found:
        raise _refusal("no tensors", "lora_A and lora_B of at least one module")
    types = sorted({tensor.dtype for tensor in tensors})
    if len(types) > 1:
        raise _refusal(f"tensors of types {', '.join(types)}", "one type for all")
    return found


def _layer(settings: LoraSettings, module: str, factors: Mapping[str, TensorEntry]) -> LoraLayer:
    if set(factors) != {"A", "B"}:
        raise _refusal(f"only one of lora_A and lora_B for {module}", "both for every module")
    a, b, rank, scale = factors["A"].shape, factors["B"].shape, settings.rank_of(module), settings.scale_of(module)
    if len(a) != 2 or len(b) != 2 or 0 in (*a, *b) or not a[0] == b[1] == rank:
        raise _refusal(
            f"A {list(a)} and B {list(b)} for {module}", f"[rank, in] and [out, rank] with the rank {rank} of {CONFIG}"
        )
    if not abs(scale) <= LARGEST_SCALE:
        raise _refusal(f"the scale {scale} for {module}", f"lora_alpha / r of at most {LARGEST_SCALE:.0f}")
    return LoraLayer(rank, a[1], b[0], scale)


def _require_targeted(settings: LoraSettings, layers: Mapping[str, LoraLayer]) -> None:
    """peft passes over tensors of modules that are not targeted; of two readers, another may not."""
    used: set[str] = set()
    for module in layers:
        targets = settings.targets_of(module)
        if not targets:
            known = ", ".join(sorted(settings.targets))
            raise _refusal(f"tensors for {module}", f"only modules in target_modules: {known:.300}")
        used |= targets
    if idle := sorted(settings.targets - used):
        raise _refusal(f"no tensors for {idle[0]}, which {CONFIG} targets", "tensors for every target")
    unknown = sorted({*settings.ranks, *settings.alphas} - set(layers))
    if unknown:
        raise _refusal(f"no tensors for {unknown[0]}, to which {CONFIG} gives a rank or alpha", "patterns of layers")


def _refusal(found: str, expected: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"{WEIGHTS} holds {found}",
        expected=expected,
        next_step="train with guardrail, or as a plain LoRA of linear layers, and save it as it was trained",
    )
