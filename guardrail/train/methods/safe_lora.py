"""Safe LoRA: project the updates of layers that leave the direction of alignment back onto it, after plain fine-tuning.

For each module V = W_aligned - W_unaligned [out, in] and C = V V' / ||V||_F; where the cosine of dW and C dW is below
``threshold``, dW becomes C dW, by B <- C B. ``unaligned`` names a model before its alignment (a directory with
safetensors) or an adapter that takes the base's alignment away; the adapter's record names it by the digest of its
files. It is looked at before training and must not have changed by its end. Needs no replay and no training step.

Source: Hsu et al., "Safe LoRA", NeurIPS 2024 (arXiv 2405.16833). A defence that continual learning is measured
against. C is the paper's cheap form: it is no projector (C C is not C), and it shrinks or enlarges dW by the scale of
V, which decides how much of the update is left at all. ``scale=paper``, the default, is what was published; ``norm``
gives C dW the Frobenius norm of dW, so that what is measured is the direction alone (ours).

A module whose V is 0 is left as it is. The mathematics is in :mod:`guardrail.train.alignment_direction`. Not covered:
choosing a number of layers instead of a threshold, as the published code may.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from guardrail.errors import EvidenceInvalid, InternalError, InvalidInput
from guardrail.home import expanded
from guardrail.model.load import base_digest
from guardrail.model.updates import Update, read_updates, write_updates
from guardrail.records import Scalar
from guardrail.train.alignment_direction import Direction, adapted, directions, project
from guardrail.train.methods import Measure, Method, Setup

SCALES = ("paper", "norm")


class SafeLora(Method):
    """dW, or C dW where dW leaves the direction of alignment."""

    plain = True
    defaults = MappingProxyType({"threshold": 0.5, "unaligned": "", "scale": "paper"})
    positive = frozenset({"threshold"})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._unaligned = expanded(str(self.hyperparameters["unaligned"]))
        self._digest, self._projected = "", 0
        self._direction: Direction | None = None
        self._check()

    def begin(self, setup: Setup) -> None:
        """Look at the unaligned model now: a run of hours must not end with a refusal."""
        self._digest = self.inputs()["unaligned"]
        modules = adapted(setup.base.model)
        self._direction = directions(self._unaligned, modules, setup.base.model.base_model_prefix)
        if not any(bool(self._direction(name).any()) for name in modules):
            raise InvalidInput(
                f"safe_lora: {self._unaligned} is no other model than the base: V is 0 for every module",
                expected="the model before its alignment, or an adapter that takes the alignment away",
            )

    def inputs(self) -> dict[str, str]:
        """The digest of the unaligned model's files."""
        return {"unaligned": base_digest(self._unaligned.resolve())}

    def finish(self, adapter: Path, parts: Mapping[str, Path], measure: Measure | None) -> dict[str, Scalar]:
        """Project what has to be projected; the record is told what ``unaligned`` was, not where."""
        del parts, measure
        if self._direction is None:
            raise InternalError("safe_lora was not told to begin")
        if self.inputs()["unaligned"] != self._digest:
            raise EvidenceInvalid(
                f"{self._unaligned} was changed while the adapter was trained",
                expected="the files that training started with",
            )
        updates, kept = read_updates(adapter), dict[str, Update]()
        for name, update in updates.items():
            direction = self._direction(name)
            kept[name] = project(update, direction, self.number("threshold"), str(self.hyperparameters["scale"]))
        self._projected = sum(kept[name] is not update for name, update in updates.items())
        with TemporaryDirectory(dir=adapter.parent) as scratch:
            write_updates(Path(scratch) / "adapter", kept, adapter)
            shutil.copytree(Path(scratch) / "adapter", adapter, dirs_exist_ok=True)
        return {"unaligned": self._digest}

    def diagnostics(self) -> dict[str, Scalar]:
        """How many modules were projected."""
        return {"projected_modules": self._projected}

    def _check(self) -> None:
        if not self.hyperparameters["unaligned"]:
            raise InvalidInput("safe_lora needs a model before its alignment", next_step="--set unaligned=DIRECTORY")
        if self.number("threshold") > 1:
            raise InvalidInput(f"safe_lora: threshold={self.number('threshold')}", expected="a cosine in (0, 1]")
        if self.hyperparameters["scale"] not in SCALES:
            raise InvalidInput(f"safe_lora: scale={self.hyperparameters['scale']!r}", expected=" or ".join(SCALES))
        if not any(self._unaligned.glob("*.safetensors")):
            raise InvalidInput(
                f"safe_lora: {self._unaligned} holds no weights",
                expected="a directory with an adapter, or with a model of the base's architecture, in safetensors",
                next_step="--set unaligned=DIRECTORY",
            )


METHOD = SafeLora
