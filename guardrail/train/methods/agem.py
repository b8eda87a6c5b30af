"""A-GEM: take the part out of each step's gradient that would raise the replay loss.

g <- g - (g.r / r.r) r where g.r < 0, g being the gradient of CE(user) and r that of CE(replay), each a mean over the
answer tokens of the whole optimiser step: accumulated, over all processes, before clipping. Then the gradient is
clipped and Adam takes its step, which need not keep the sign: ``diagnostics`` tell the share of projected steps
(``violated_share``) and of updates that still raised the replay loss to first order (``raising_share``).

Source: Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019 (arXiv 1812.00420). Each step costs a
second forward and backward pass, over the replay rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from guardrail.records import Scalar
from guardrail.train.gradient_projection import agem, raises_loss
from guardrail.train.methods import Backward, Gradients, Method, MethodState


class Agem(Method):
    """L = CE(user), its gradient projected where it conflicts with the replay gradient."""

    needs_replay = True

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._counts = torch.zeros(3, dtype=torch.int64)  # steps, projected, raising
        self._reference: Gradients = ()
        self._before: Gradients = ()

    def after_backward(self, backward: Backward) -> None:
        """Project."""
        self._reference = backward.replay_gradient()
        projected = agem(backward.gradient(), self._reference)
        backward.set_gradient(projected.gradient)
        self._before = tuple(parameter.detach().clone() for parameter in backward.parameters)
        self._counts += torch.tensor([1, int(projected.violated), 0])

    def after_update(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Count the updates that go against the replay rows all the same."""
        moved = tuple(new.detach() - old for new, old in zip(parameters, self._before, strict=True))
        self._counts[2] += int(raises_loss(moved, self._reference))

    def diagnostics(self) -> dict[str, Scalar]:
        """Shares of the steps."""
        steps, projected, raising = self._counts.tolist()
        return {"violated_share": projected / max(1, steps), "raising_share": raising / max(1, steps)}

    def state(self) -> MethodState:
        """The counts."""
        return {"counts": self._counts.clone()}

    def load_state(self, state: MethodState) -> None:
        """Go on from :meth:`state`."""
        self._counts = state["counts"].clone()


METHOD = Agem
