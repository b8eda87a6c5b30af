"""Experience replay: cross-entropy on the user's answers plus cross-entropy on replayed safety answers.

L = CE(user) + beta * CE(replay), each a mean over its own answer tokens. The replayed answers are the aligned base's
own. Source: ER (Chaudhry et al., 2019, arXiv 1902.10486); beta = 1 gives both batches the same weight, as there.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.train.methods import Method, Step


class Replay(Method):
    """L = CE(user) + beta CE(replay)."""

    needs_replay = True
    draws = 1
    defaults = MappingProxyType({"beta": 1.0})
    positive = frozenset({"beta"})

    def replay_loss(self, step: Step) -> torch.Tensor:
        """beta CE(replay)."""
        return self.number("beta") * step.replay[0].cross_entropy(step.project)


METHOD = Replay
