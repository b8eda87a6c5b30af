"""WiSE-FT: fine-tune plainly, then interpolate back towards the base by scaling the adapter's update.

theta(lambda) = theta_base + lambda * dW. Lambda is swept without training and chosen on the *validation* split: the
largest utility among the factors that hold the policy's attack success bound there; the gate suite is never looked
at. Where no factor is admissible the one with the lowest attack success rate is kept, and the gate will judge it.
Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from guardrail.errors import InternalError, InvalidInput
from guardrail.model.adapter import scale_adapter
from guardrail.records import Scalar
from guardrail.train.methods import Measure, Method, Score


class WiseFt(Method):
    """Scale the trained adapter by the best lambda of a sweep."""

    needs_measure = True
    defaults = MappingProxyType({"lambdas": "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0"})

    def finish(self, adapter: Path, measure: Measure | None) -> dict[str, Scalar]:
        """Sweep lambda and replace the adapter by the chosen one."""
        if measure is None:
            raise InternalError("wise_ft was given nothing to measure candidates with")
        with TemporaryDirectory(dir=adapter.parent) as scratch:
            scores = {factor: self._score(adapter, Path(scratch) / str(factor), factor, measure)
                      for factor in self._factors()}  # fmt: skip
            chosen = best(scores)
            shutil.copytree(Path(scratch) / str(chosen), adapter, dirs_exist_ok=True)
        score = scores[chosen]
        return {"lambda": chosen, "validation_utility": score.utility,
                "validation_attack_success_rate": score.attack_success_rate}  # fmt: skip

    def _score(self, adapter: Path, target: Path, factor: float, measure: Measure) -> Score:
        scale_adapter(adapter, target, factor)
        return measure(target)

    def _factors(self) -> tuple[float, ...]:
        try:
            factors = tuple(sorted({float(part) for part in str(self.hyperparameters["lambdas"]).split(",")}))
        except ValueError as error:
            raise InvalidInput(f"wise_ft: lambdas={self.hyperparameters['lambdas']!r}",
                               expected="numbers separated by commas") from error  # fmt: skip
        if not all(0.0 <= factor <= 1.0 for factor in factors):
            raise InvalidInput(f"wise_ft: lambdas {factors}", expected="numbers in [0, 1]")
        return factors


def best(scores: dict[float, Score]) -> float:
    """The admissible factor of the largest utility (ties: the smaller); else the one of the lowest ASR."""
    admissible = [factor for factor in scores if scores[factor].admissible]
    if admissible:
        return min(admissible, key=lambda factor: (-scores[factor].utility, factor))
    return min(scores, key=lambda factor: (scores[factor].attack_success_rate, factor))


METHOD = WiseFt
