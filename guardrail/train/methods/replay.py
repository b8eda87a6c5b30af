"""Experience replay: cross-entropy on the user's answers plus cross-entropy on replayed safety answers.

L = CE(user) + beta * CE(replay), each a mean over its own answer tokens. The replayed answers are the aligned base's
own. Source: ER (Chaudhry et al., 2019, arXiv 1902.10486); beta = 1 gives both batches the same weight, as there.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from guardrail.errors import InternalError
from guardrail.train.methods import Method, Step


class Replay(Method):
    """L = CE(user) + beta CE(replay)."""

    needs_replay = True
    defaults = MappingProxyType({"beta": 1.0})

    def loss(self, step: Step) -> torch.Tensor:
        """See the class."""
        if step.replay is None:
            raise InternalError("replay was given no replay batch")
        return super().loss(step) + self.number("beta") * step.replay.cross_entropy(step.project)


METHOD = Replay
