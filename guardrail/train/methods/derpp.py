"""DER++: dark experience replay plus cross-entropy on a second, independent draw of replayed answers.

L = CE(user) + alpha * D(teacher, student; first draw) + beta * CE(replay; second draw), each a mean over its own answer
tokens; D is that of :mod:`guardrail.train.methods.der`. The second draw is separate, as in the source: the same rows
for both would weigh them twice.

Source: Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020 (beta 0.5 to 1 on images). The
defaults are alpha as in ``der`` and beta 0.5.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.train.methods import Step
from guardrail.train.methods.der import Der


class Derpp(Der):
    """L = CE(user) + alpha D(teacher, student) + beta CE(replay)."""

    draws = 2
    defaults = MappingProxyType({**Der.defaults, "beta": 0.5})

    def replay_loss(self, step: Step) -> torch.Tensor:
        """alpha D on the first draw + beta CE on the second."""
        return super().replay_loss(step) + self.number("beta") * step.replay[1].cross_entropy(step.project)


METHOD = Derpp
