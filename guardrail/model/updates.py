"""LoRA adapters as weight updates: read and write the dW = scale * B A of every module, without the base.

Merging is mathematics on dW, so the factors are read with the scale they are served with and written so that stock
peft serves them again. Adapters whose files do not determine dW are refused by the door that all adapters pass
(``guardrail.evidence.adapter.lora``), and what is written passes it too. Sources: LoRA (Hu et al., 2021, arXiv
2106.09685); rank-stabilised scale (Kalajdzievski, 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from guardrail import nofollow
from guardrail.atomic import write_atomically, write_by
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.adapter.lora import WEIGHTS, read_adapter, tensor_name
from guardrail.evidence.adapter.lora_settings import CONFIG, exactly, load_config, read_settings
from guardrail.model.adapter_disk import writing_adapter

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Update:
    """What an adapter adds to one linear layer: dW = scale * b @ a.

    Args:
        a: [rank, in].
        b: [out, rank].
        scale: alpha / rank, or alpha / sqrt(rank) under rsLoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def dense(self) -> torch.Tensor:
        """dW [out, in], in float32 or the factors' higher precision; GPT-2's layers add its transpose."""
        dtype = torch.promote_types(torch.promote_types(self.a.dtype, self.b.dtype), torch.float32)
        return self.scale * (self.b.to(dtype) @ self.a.to(dtype))


def read_updates(directory: Path) -> dict[str, Update]:
    """The updates of the adapter in ``directory``, by the module's name in the base, sorted.

    Raises:
        EvidenceInvalid: the directory holds anything but the two files of a plain LoRA.
    """
    lora = read_adapter(directory)
    with _reading(directory) as file:
        return {
            name: Update(file.get_tensor(tensor_name(name, "A")), file.get_tensor(tensor_name(name, "B")), layer.scale)
            for name, layer in lora.layers.items()
        }


def write_updates(target: Path, updates: Mapping[str, Update], like: Path) -> None:
    """Write an adapter into ``target`` (emptied first) that peft serves as exactly ``updates``, in their own dtype.

    Scales become lora_alpha (and alpha_pattern), so B is written as it is and not rounded again. Other settings are
    those of the adapter in ``like``; its target_modules too, unless the updates are for other modules. The same
    updates give the same bytes.

    Raises:
        EvidenceInvalid: the settings of ``like`` are not those of a plain LoRA, or a scale is beyond half precision.
        InvalidInput: no updates, or an update that is not finite or whose shapes do not fit.
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    from safetensors.torch import save_file

    _check_updates(target, updates)
    config = {**_read_config(like), **_ranks_and_alphas(updates), **_targets(updates, like)}
    factors = {
        tensor_name(name, factor): tensor
        for name, update in updates.items()
        for factor, tensor in (("A", update.a), ("B", update.b))
    }
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in factors.items()
    }
    nofollow.remove(target)
    with writing_adapter(target):
        target.mkdir(parents=True)
        write_atomically(target / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        write_by(target / WEIGHTS, lambda file: save_file(tensors, file, metadata={"format": "pt"}))
    read_adapter(target)


def _read_config(directory: Path) -> dict[str, Any]:
    """What the configuration of an adapter says; only a plain one is copied from."""
    read_settings(directory)
    return load_config((directory / CONFIG).read_bytes())


def _problem(update: Update) -> str:
    """Why this is not a low-rank update, or nothing."""
    a, b = update.a, update.b
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        return f"A {list(a.shape)} and B {list(b.shape)} are not [rank, in] and [out, rank]"
    if a.dtype not in _FLOATS or b.dtype not in _FLOATS:
        return f"{a.dtype} and {b.dtype} are not floats of 16 or 32 bits"
    if not (math.isfinite(update.scale) and a.isfinite().all() and b.isfinite().all()):
        return "values that are not finite"
    return ""


def _check_updates(target: Path, updates: Mapping[str, Update]) -> None:
    problems = [f"{name}: {problem}" for name, update in updates.items() if (problem := _problem(update))]
    if problems or not updates:
        raise InvalidInput(
            f"cannot write an adapter to {target}: {problems[0] if problems else 'no updates'}",
            expected="finite A [rank, in] and B [out, rank] for at least one module",
        )


def _ranks_and_alphas(updates: Mapping[str, Update]) -> dict[str, Any]:
    """The settings that give every module its own rank and scale, with patterns only where modules differ."""
    ranks = {name: updates[name].a.shape[0] for name in sorted(updates)}
    alphas = {name: _alpha(updates[name].scale, rank) for name, rank in ranks.items()}
    largest = max(ranks, key=ranks.__getitem__)
    return {
        "r": ranks[largest],
        "lora_alpha": alphas[largest],
        "rank_pattern": {exactly(name): rank for name, rank in ranks.items() if rank != ranks[largest]},
        "alpha_pattern": {exactly(name): alpha for name, alpha in alphas.items() if alpha != alphas[largest]},
        "use_rslora": False,
        # Written factors are trained ones: nothing is left to initialise.
        "init_lora_weights": True,
        "eva_config": None,
    }


def _alpha(scale: float, rank: int) -> float:
    """The alpha whose alpha / rank is ``scale``: an int where one fits, as other readers of the file expect."""
    nearest = round(scale * rank)
    return nearest if nearest / rank == scale else scale * rank


def _targets(updates: Mapping[str, Update], like: Path) -> dict[str, Any]:
    """Full names, where the updates are not for the modules that ``like`` names in its own way."""
    with _reading(like) as file:
        same = set(file.keys()) == {tensor_name(name, factor) for name in updates for factor in "AB"}
    if same:
        return {}
    return {
        "target_modules": sorted(updates),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }


@contextmanager
def _reading(directory: Path) -> Iterator[Any]:
    """The tensors of an adapter that passed the door."""
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise EvidenceInvalid(
            f"{WEIGHTS} in {directory} cannot be read ({error})",
            expected="the file that was checked",
            next_step="run the same command again",
        ) from error
