"""LoRA adapters as weight updates: read and write the dW = scale * B A of every module, without the base.

Merging is mathematics on dW, so the factors are read with the scale they are served with and written so that stock
peft serves them again. Not covered: anything that is more than one low-rank product per linear layer (DoRA, trained
embeddings or biases, convolutions) and initialisations that change the base (PiSSA, OLoRA, ...), where the files do
not determine dW; they are refused. Sources: LoRA (Hu et al., 2021, arXiv 2106.09685); rank-stabilised scale
(Kalajdzievski, 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from guardrail import nofollow
from guardrail.atomic import write_atomically, write_by
from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.model.adapter import CONFIG, WEIGHTS, check_files

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Initialisations that leave the base's weights alone.
_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")
# Settings that may be set without dW being anything but scale * B A. Whatever else is set is refused, so that a
# variant of LoRA that a later peft adds is not read as a plain one.
_PLAIN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_dropout", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
})  # fmt: skip


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
        EvidenceInvalid: the directory holds anything but the two files of an adapter.
        InvalidInput: the adapter is not a plain LoRA, is damaged, or contradicts its configuration.
    """
    check_files(directory)
    config = _read_config(directory)
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise _refusal(directory, f"{WEIGHTS} cannot be read ({error})") from error
    names = _modules(directory, tensors)
    return {name: _update(directory, config, name, tensors[_key(name, "A")], tensors[_key(name, "B")])
            for name in names}  # fmt: skip


def write_updates(target: Path, updates: Mapping[str, Update], like: Path) -> None:
    """Write an adapter into ``target`` (emptied first) that peft serves as exactly ``updates``, in their own dtype.

    Scales become lora_alpha (and alpha_pattern), so B is written as it is and not rounded again. Other settings are
    those of the adapter in ``like``; its target_modules too, unless the updates are for other modules. The same
    updates give the same bytes.

    Raises:
        InvalidInput: no updates, an update that is not finite or whose shapes do not fit, or ``like`` is not plain.
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    from safetensors.torch import save_file

    check_files(like)
    _check_updates(target, updates)
    config = {**_read_config(like), **_ranks_and_alphas(updates), **_targets(updates, like)}
    factors = {_key(name, factor): tensor for name, update in updates.items()
               for factor, tensor in (("A", update.a), ("B", update.b))}  # fmt: skip
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
               for key, tensor in factors.items()}  # fmt: skip
    nofollow.remove(target)
    with _disk(target):
        target.mkdir(parents=True)
        write_atomically(target / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
        write_by(target / WEIGHTS, lambda file: save_file(tensors, file, metadata={"format": "pt"}))


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refusal(directory, f"{CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise _refusal(directory, f"{CONFIG} is not an object")
    strange = _strange_settings(config)
    if strange:
        raise _refusal(directory, ", ".join(strange))
    return config


def _strange_settings(config: Mapping[str, Any]) -> list[str]:
    """The settings under which the files would not determine dW, as ``name=value``."""
    required = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": _INITIALISATIONS}
    defaults = {"bias": "none", "init_lora_weights": True}
    wrong = [name for name, allowed in required.items() if config.get(name, defaults.get(name)) not in allowed]
    unknown = sorted(name for name, value in config.items() if value and name not in _PLAIN)
    return [f"{name}={config.get(name)!r}" for name in (*wrong, *unknown)]


def _modules(directory: Path, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    matches = {key: _KEY.fullmatch(key) for key in tensors}
    strange = sorted(key for key, match in matches.items() if match is None)
    if strange or not tensors:
        raise _refusal(directory, f"tensors {strange[:3]}" if strange else "no tensors")
    names = sorted({match["module"] for match in matches.values() if match is not None})
    lonely = [name for name in names if _key(name, "A") not in tensors or _key(name, "B") not in tensors]
    if lonely:
        raise _refusal(directory, f"only one of lora_A and lora_B for {lonely[:3]}")
    return names


def _update(directory: Path, config: Mapping[str, Any], name: str, a: torch.Tensor, b: torch.Tensor) -> Update:
    try:
        rank = _setting(config, "r", "rank_pattern", name)
        alpha = float(_setting(config, "lora_alpha", "alpha_pattern", name))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, re.error) as error:
        raise _refusal(directory, f"no rank and alpha for {name} in {CONFIG} ({error!r})") from error
    update = Update(a, b, scale)
    problem = _problem(update)
    if problem:
        raise _refusal(directory, f"{name}: {problem}")
    if rank != a.shape[0]:
        raise _refusal(directory, f"{name}: rank {a.shape[0]} in {WEIGHTS}, {rank} in {CONFIG}")
    return update


def _setting(config: Mapping[str, Any], default: str, pattern: str, name: str) -> Any:
    """The value for module ``name`` as peft finds it: of the first pattern that ends the name at a dot."""
    values = config.get(pattern) or {}
    for key, value in values.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return values.get(name, config[default])


def _problem(update: Update) -> str:
    """Why this is not a low-rank update, or nothing."""
    a, b = update.a, update.b
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        return f"A {list(a.shape)} and B {list(b.shape)} are not [rank, in] and [out, rank]"
    if a.dtype not in _FLOATS or b.dtype not in _FLOATS:
        return f"{a.dtype} and {b.dtype} are not floats of 16 bits or more"
    if not (math.isfinite(update.scale) and a.isfinite().all() and b.isfinite().all()):
        return "values that are not finite"
    return ""


def _check_updates(target: Path, updates: Mapping[str, Update]) -> None:
    problems = [f"{name}: {problem}" for name, update in updates.items() if (problem := _problem(update))]
    if problems or not updates:
        raise InvalidInput(f"cannot write an adapter to {target}: {problems[0] if problems else 'no updates'}",
                           expected="finite A [rank, in] and B [out, rank] for at least one module")  # fmt: skip


def _ranks_and_alphas(updates: Mapping[str, Update]) -> dict[str, Any]:
    """The settings that give every module its own rank and scale, with patterns only where modules differ."""
    ranks = {name: updates[name].a.shape[0] for name in sorted(updates)}
    alphas = {name: _alpha(updates[name].scale, rank) for name, rank in ranks.items()}
    largest = max(ranks, key=ranks.__getitem__)
    return {
        "r": ranks[largest],
        "lora_alpha": alphas[largest],
        "rank_pattern": {_exactly(name): rank for name, rank in ranks.items() if rank != ranks[largest]},
        "alpha_pattern": {_exactly(name): alpha for name, alpha in alphas.items() if alpha != alphas[largest]},
        "use_rslora": False,
        # Written factors are trained ones: nothing is left to initialise.
        "init_lora_weights": True,
        "eva_config": None,
    }


def _alpha(scale: float, rank: int) -> float:
    """The alpha whose alpha / rank is ``scale``: an int where one fits, as other readers of the file expect."""
    nearest = round(scale * rank)
    return nearest if nearest / rank == scale else scale * rank


def _exactly(name: str) -> str:
    """A pattern for this module and no other: peft puts ``(.*\\.)?`` in front, which ``^`` leaves nothing to match."""
    return "^" + re.escape(name)


def _targets(updates: Mapping[str, Update], like: Path) -> dict[str, Any]:
    """Full names, where the updates are not for the modules that ``like`` names in its own way."""
    try:
        with safe_open(like / WEIGHTS, framework="pt") as file:
            same = set(file.keys()) == {_key(name, factor) for name in updates for factor in "AB"}
    except (OSError, SafetensorError) as error:
        raise _refusal(like, f"{WEIGHTS} cannot be read ({error})") from error
    if same:
        return {}
    return {"target_modules": sorted(updates), "exclude_modules": None, "layers_to_transform": None,
            "layers_pattern": None}  # fmt: skip


def _key(name: str, factor: str) -> str:
    return f"base_model.model.{name}.lora_{factor}.weight"


def _refusal(directory: Path, found: str) -> InvalidInput:
    return InvalidInput(
        f"the adapter in {directory} cannot be read as weight updates: {found}",
        expected="a plain LoRA of linear layers: no DoRA, trained biases, embeddings or other modules",
        next_step="train the adapter again as a plain LoRA, or leave it out of the merge",
    )


@contextmanager
def _disk(directory: Path) -> Iterator[None]:
    """Turn what a full disk does to safetensors and to plain files into one error."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ServiceUnavailable(
            f"cannot write the adapter to {directory}: {error}",
            expected="a writable disk with room",
            next_step="free space, then run the same command again",
        ) from error
