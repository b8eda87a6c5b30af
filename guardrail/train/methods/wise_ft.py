"""WiSE-FT: fine-tune plainly, then interpolate back towards the base by scaling the adapter's update.

theta(lambda) = theta_base + lambda * dW. With LoRA dW = s B A, so scaling s is exact and nothing is rounded. It merges
with the base alone, never with adapters of other runs. Source: Wortsman et al., "Robust fine-tuning of zero-shot
models", CVPR 2022. How lambda is chosen: :mod:`guardrail.train.merge`.
"""

from __future__ import annotations

from types import MappingProxyType

from guardrail.model.updates import Update
from guardrail.train.merge import LAMBDAS, Merge


class WiseFt(Merge):
    """lambda dW."""

    needs_replay = False
    parts = ("user",)
    most_adapters = 0
    defaults = MappingProxyType({"lambdas": LAMBDAS, "rank": 0.0})

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> Update:
        """The same factors, another scale."""
        del name
        (user,) = updates
        return Update(user.a, user.b, factor * user.scale)


METHOD = WiseFt
