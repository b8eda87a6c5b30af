"""Dark experience replay: keep the predictions of the aligned base on replayed safety prompts.

L = CE(user) + alpha * D(teacher, student) over the answer tokens of replayed rows, where the teacher is the base
before fine-tuning, its hidden states cached once, and the replayed answers are its own.

Reduction, stated because alpha means nothing without it: D is a *mean over answer tokens* of

- ``kl`` (default): KL(teacher || student), in nats, over the whole vocabulary;
- ``mse``: the squared distance of logits, *meaned* over the vocabulary as in the vision papers (computed exactly from
  G = W'W without a logit). It is orders of magnitude weaker at equal alpha: see docs/methods.md before using it.

Sources: Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020 (alpha 0.1 to 1 on images);
"Unforgotten Safety", arXiv 2512.10150, for its use on aligned language models. The default alpha of 10 for ``kl`` was
chosen on the testbed's validation split (docs/methods.md).
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.errors import InternalError, InvalidInput
from guardrail.records import Scalar
from guardrail.train.distillation import kl_divergence, squared_logit_distance
from guardrail.train.methods import Method, Step


class Der(Method):
    """L = CE(user) + alpha D(teacher, student)."""

    needs_replay = True
    defaults = MappingProxyType({"alpha": 10.0, "distance": "kl"})

    def __init__(self, hyperparameters: dict[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if self.hyperparameters["distance"] not in ("kl", "mse"):
            raise InvalidInput(f"der: distance={self.hyperparameters['distance']!r}", expected="kl or mse")

    def loss(self, step: Step) -> torch.Tensor:
        """See the module."""
        if step.replay is None or step.teacher is None:
            raise InternalError("der was given no replay batch or no teacher states")
        return super().loss(step) + self.number("alpha") * self._distance(step, step.replay.states, step.teacher)

    def _distance(self, step: Step, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.hyperparameters["distance"] == "kl":
            return kl_divergence(student, teacher, step.project)
        gram, vocabulary = step.gram()
        return squared_logit_distance(student, teacher, gram) / vocabulary


METHOD = Der
