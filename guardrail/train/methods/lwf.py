"""Learning without forgetting: stay close to the base's hidden states on the user's own rows; needs no replay.

L = CE(user) + lambda * mean over the user's answer tokens of ||h - h_base||^2, the squared distance *summed* over the
hidden units, of the final hidden states (after the last norm) at the positions that predict an answer token. The base's
states are computed once, before an adapter is attached.

Sources: Li and Hoiem, "Learning without Forgetting", 2017 (arXiv 1606.09282), which distils predictions on the new
task's inputs; "Unforgotten Safety", arXiv 2512.10150, whose form on hidden states of user data this is. The default
lambda of 1 has no better source than simplicity: the distance has the scale of the hidden states. On the testbed it
holds safety by holding everything (utility 0, benchmarks/RESULTS.md): choose it on the validation split.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.train.distillation import wide
from guardrail.train.methods import Answers, Method, Step, teacher_of


class Lwf(Method):
    """L = CE(user) + lambda ||h - h_base||^2."""

    user_teacher = True
    defaults = MappingProxyType({"lambda": 1.0})
    positive = frozenset({"lambda"})

    def user_loss(self, step: Step, user: Answers) -> torch.Tensor:
        """Both terms."""
        difference = wide(user.states) - wide(teacher_of(user))
        return super().user_loss(step, user) + self.number("lambda") * difference.square().sum() / user.total


METHOD = Lwf
