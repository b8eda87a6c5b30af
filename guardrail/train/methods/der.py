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

from collections.abc import Mapping
from types import MappingProxyType

import torch

from guardrail.errors import InvalidInput
from guardrail.records import Scalar
from guardrail.train.distillation import kl_divergence, squared_logit_distance
from guardrail.train.methods import Answers, Method, Step, teacher_of


class Der(Method):
    """L = CE(user) + alpha D(teacher, student)."""

    needs_replay = True
    draws = 1
    replay_teacher = True
    defaults = MappingProxyType({"alpha": 10.0, "distance": "kl"})
    positive = frozenset({"alpha"})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        if self.hyperparameters["distance"] not in ("kl", "mse"):
            raise InvalidInput(f"{self.name}: distance={self.hyperparameters['distance']!r}", expected="kl or mse")

    def replay_loss(self, step: Step) -> torch.Tensor:
        """alpha D(teacher, student)."""
        return self.number("alpha") * self.distance(step, step.replay[0])

    def distance(self, step: Step, replayed: Answers) -> torch.Tensor:
        """D, a mean over answer tokens."""
        teacher = teacher_of(replayed)
        if self.hyperparameters["distance"] == "kl":
            return kl_divergence(replayed.states, teacher, step.project) / replayed.total
        gram, vocabulary = step.gram()
        return squared_logit_distance(replayed.states, teacher, gram) / (vocabulary * replayed.total)


METHOD = Der
