"""Merges: methods that train plainly and then combine adapters, choosing how much on the validation split.

An adapter is trained for each of the method's ``parts``: on the user's rows and, for most, on the replay rows with the
base's own answers (a *safety vector*), each from the base. Adapters of other runs take the place of the safety vector
where they are given (:meth:`Merge.merge_with`); they are not trained here, and who gives them has checked them.
``merged`` combines the updates dW of all for a factor lambda; every candidate of ``lambdas`` is written as an adapter,
and what is measured, chosen and later gated is that adapter, rounding included. Chosen is the largest utility among the
candidates that hold the policy's attack success bound on the *validation* split; the gate suite is never looked at.
Where none is admissible the one with the lowest attack success rate is kept, and the gate will judge it.

Dense results are stored by truncated SVD; the record tells rank and largest relative error. Merging is on dW = s B A:
combining A and B apart from one another, as peft's ``add_weighted_adapter`` does for most types, is another thing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch

from guardrail.errors import InternalError, InvalidInput
from guardrail.model.updates import Update, read_updates, write_updates
from guardrail.records import Scalar
from guardrail.train.merge_math import truncate
from guardrail.train.methods import Measure, Method, Score, Setup, given_parts

LAMBDAS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0"


class Merge(Method):
    """Train every part, merge, choose lambda."""

    needs_replay = True
    needs_measure = True
    plain = True
    parts: tuple[str, ...] = ("user", "replay")
    most_adapters: int | None = None
    """Of other runs; None for any number."""
    scales = False
    """Whether lambda only scales the result: then each module is merged, and its SVD taken, once for all lambdas."""
    defaults = MappingProxyType({"lambdas": LAMBDAS, "rank": 0.0})

    def __init__(self, hyperparameters: Mapping[str, Scalar]) -> None:
        super().__init__(hyperparameters)
        self._seed, self._error, self._ranks = 0, 0.0, 0
        self._factors = self._checked_factors()
        self._once: dict[str, Update] = {}
        if not self.number("rank").is_integer():
            raise InvalidInput(f"{self.name}: rank={self.number('rank')}", expected="a whole number")

    def merge_with(self, adapters: int) -> None:
        """In place of the replay part."""
        if self.most_adapters == 0:
            super().merge_with(adapters)
        if self.most_adapters is not None and adapters > self.most_adapters:
            raise InvalidInput(
                f"{self.name} of this run's adapter with {adapters} of other runs",
                expected=f"--adapter at most {self.most_adapters} time(s)",
                next_step="merge more than two with linear, magmax, ties or dare",
            )
        self.parts, self.needs_replay = ("user", *given_parts(adapters)), False

    def begin(self, setup: Setup) -> None:
        """Merges draw with the run's seed."""
        self._seed = setup.seed

    def merged(self, name: str, updates: tuple[Update, ...], factor: float) -> Update | torch.Tensor:
        """The update of module ``name`` at lambda = ``factor`` (only at 1 where the method ``scales``).

        Args:
            updates: one for each part, in their order: the user's first.

        Returns:
            factors, or a dense matrix, which is truncated.
        """
        raise InternalError(f"{self.name} does not say how it merges {name}: {len(updates)} updates, lambda {factor}")

    def finish(self, adapter: Path, parts: Mapping[str, Path], measure: Measure | None) -> dict[str, Scalar]:
        """Sweep lambda and replace the adapter by the chosen candidate."""
        if measure is None:
            raise InternalError(f"{self.name} was given nothing to measure candidates with")
        vectors = [read_updates(parts[part]) for part in self.parts]
        self._once = {}
        with TemporaryDirectory(dir=adapter.parent) as scratch:
            scores = {
                factor: self._candidate(Path(scratch) / str(factor), vectors, factor, adapter, measure)
                for factor in self._factors
            }
            chosen = best(scores)
            shutil.copytree(Path(scratch) / str(chosen), adapter, dirs_exist_ok=True)
        score = scores[chosen]
        return {
            "lambda": chosen,
            "validation_utility": score.utility,
            "validation_attack_success_rate": score.attack_success_rate,
        }

    def diagnostics(self) -> dict[str, Scalar]:
        """What truncation lost, over all candidates and modules."""
        return {"merged_rank": self._ranks, "largest_relative_error": self._error}

    def _checked_factors(self) -> tuple[float, ...]:
        """The candidates for lambda, ascending."""
        try:
            factors = tuple(sorted({float(part) for part in str(self.hyperparameters["lambdas"]).split(",")}))
        except ValueError as error:
            raise InvalidInput(
                f"{self.name}: lambdas={self.hyperparameters['lambdas']!r}", expected="numbers separated by commas"
            ) from error
        if not all(0.0 <= factor <= 1.0 for factor in factors):
            raise InvalidInput(f"{self.name}: lambdas {factors}", expected="numbers in [0, 1]")
        return factors

    def _candidate(
        self, target: Path, vectors: list[dict[str, Update]], factor: float, like: Path, measure: Measure
    ) -> Score:
        names = list(vectors[0])
        if any(list(vector) != names for vector in vectors):
            raise InvalidInput(f"{self.name}: the adapters are for other modules than one another")
        updates = {name: self._stored(name, tuple(v[name] for v in vectors), factor) for name in names}
        write_updates(target, updates, like)
        return measure(target)

    def _stored(self, name: str, updates: tuple[Update, ...], factor: float) -> Update:
        if not self.scales:
            return self._truncated(name, updates, factor)
        if name not in self._once:
            self._once[name] = self._truncated(name, updates, 1.0)
        once = self._once[name]
        return Update(once.a, once.b, factor * once.scale)

    def _truncated(self, name: str, updates: tuple[Update, ...], factor: float) -> Update:
        found = self.merged(name, updates, factor)
        if isinstance(found, torch.Tensor):
            whole = sum(update.a.shape[0] for update in updates)
            truncated = truncate(found, int(self.number("rank")) or whole)
            self._error = max(self._error, truncated.relative_error)
            found = truncated.update
        self._ranks = max(self._ranks, found.a.shape[0])
        dtype = updates[0].a.dtype
        return Update(found.a.to(dtype), found.b.to(dtype), found.scale)


def best(scores: Mapping[float, Score]) -> float:
    """The factor whose score ranks first (ties: the smaller)."""
    return min(scores, key=lambda factor: (scores[factor].rank, factor))
