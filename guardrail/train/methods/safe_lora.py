"""Safe LoRA: project the updates of layers that leave the direction of alignment back onto it, after plain fine-tuning.

For each module V = W_aligned - W_unaligned [out, in] and C = V V' / ||V||_F; where the cosine of dW and C dW is below
``threshold``, dW becomes C dW, by B <- C B. ``unaligned`` names a model before its alignment (a directory with
safetensors) or an adapter that takes the base's alignment away. Needs no replay and no training step.

Source: Hsu et al., "Safe LoRA", NeurIPS 2024 (arXiv 2405.16833). A defence that continual learning is measured
against. C is the paper's cheap form: it is no projector (C C is not C), and it shrinks or enlarges dW by the scale of
V.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch
from safetensors import safe_open

from guardrail.errors import InternalError, InvalidInput
from guardrail.model.updates import Update, read_updates, write_updates
from guardrail.records import Scalar
from guardrail.train.methods import Measure, Method, Setup


class SafeLora(Method):
    """dW, or C dW where dW leaves the direction of alignment."""

    plain = True
    defaults = MappingProxyType({"threshold": 0.5, "unaligned": ""})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._base: Mapping[str, torch.Tensor] = {}
        self._projected = 0
        if not self.hyperparameters["unaligned"]:
            raise InvalidInput("safe_lora needs a model before its alignment", next_step="--set unaligned=DIRECTORY")

    def begin(self, setup: Setup) -> None:
        """Remember the base's weights (not copies)."""
        self._base = {name.replace(".base_layer.", "."): parameter.detach()
                      for name, parameter in setup.base.model.named_parameters()}  # fmt: skip

    def finish(self, adapter: Path, parts: Mapping[str, Path], measure: Measure | None) -> dict[str, Scalar]:
        """Project what has to be projected."""
        del parts, measure
        updates = read_updates(adapter)
        aligned = alignment(Path(str(self.hyperparameters["unaligned"])), self._base, list(updates))
        kept = {name: project(update, aligned[name], self.number("threshold")) for name, update in updates.items()}
        self._projected = sum(kept[name] is not update for name, update in updates.items())
        with TemporaryDirectory(dir=adapter.parent) as scratch:
            write_updates(Path(scratch) / "adapter", kept, adapter)
            shutil.copytree(Path(scratch) / "adapter", adapter, dirs_exist_ok=True)
        return {}

    def diagnostics(self) -> dict[str, Scalar]:
        """How many modules were projected."""
        return {"projected_modules": self._projected}


def alignment(unaligned: Path, base: Mapping[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """V = W_aligned - W_unaligned [out, in] of every module.

    Raises:
        InvalidInput: the directory holds neither an adapter nor a model with these modules.
    """
    if (unaligned / "adapter_config.json").exists():
        away = read_updates(unaligned)
        missing = [name for name in names if name not in away]
        if not missing:
            return {name: -away[name].dense for name in names}
    else:
        found = _weights(unaligned, [f"{name}.weight" for name in names])
        missing = [name for name in names if f"{name}.weight" not in found]
        if not missing:
            return {name: base[f"{name}.weight"].float() - found[f"{name}.weight"].float() for name in names}
    raise InvalidInput(
        f"safe_lora: {unaligned} has no weights for {missing[0]} and {len(missing) - 1} other modules",
        expected="an adapter, or a model of the base's architecture, in safetensors",
    )


def project(update: Update, direction: torch.Tensor, threshold: float) -> Update:
    """C dW where its cosine with dW is below ``threshold``, else the very same update."""
    if update.b.shape[0] != direction.shape[0] or update.a.shape[1] != direction.shape[1]:
        raise InternalError(f"safe_lora: {tuple(direction.shape)} is not the shape of dW")
    norm = direction.norm()
    if not float(norm) > 0:
        return update
    projected = direction @ (direction.T @ update.b.float()) / norm
    dense, moved = update.dense.float(), update.scale * projected @ update.a.float()
    cosine = float((dense * moved).sum() / (dense.norm() * moved.norm()).clamp_min(1e-30))
    return update if cosine >= threshold else Update(update.a, projected.to(update.b.dtype), update.scale)


def _weights(directory: Path, names: list[str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            found |= {name: stream.get_tensor(name) for name in stream.keys() if name in names}  # noqa: SIM118
    return found


METHOD = SafeLora
