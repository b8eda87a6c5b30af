"""A linear probe: the direction in hidden-state space that separates two classes, and how far it can be trusted.

Pure mathematics on arrays. Linear discriminant analysis on standardised features, the covariance shrunk towards a
multiple of the identity (Ledoit & Wolf 2004, the weight computed from the data). A linear score alone says nothing
about inputs unlike both classes: they fall anywhere along the direction. So the probe also measures the Mahalanobis
distance to the positive class (Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples),
and only what lies within the radius of the positives can be one.

Threshold and radius come from cross-fitting: every row is measured by a probe that has not seen it, and split-conformal
quantiles bound the rate at which new negatives exceed the threshold and new positives leave the radius.

Not covered: negatives and positives unlike the anchors; the bounds hold for exchangeable ones only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Precision:
    """Inverse of a shrunk covariance without ever forming a hidden x hidden matrix.

    ``rows`` [rank, hidden] span the data, ``inside`` [rank] are the inverse variances along them, ``outside`` is the
    inverse variance of everything else.
    """

    rows: Array
    inside: Array
    outside: float

    def times(self, vectors: Array) -> Array:
        """[..., hidden] -> [..., hidden]: the vectors times the inverse covariance."""
        along = vectors @ self.rows.T
        result: Array = (along * self.inside) @ self.rows + (vectors - along @ self.rows) * self.outside
        return result


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe; scores are 1/2 at the positives' mean and -1/2 at the negatives', whatever the fold."""

    center: Array
    scale: Array
    direction: Array
    mean: Array
    precision: Precision

    def score(self, states: Array) -> Array:
        """[n, hidden] -> [n]: how positive along the direction."""
        result: Array = ((states - self.center) / self.scale) @ self.direction
        return result

    def distance(self, states: Array) -> Array:
        """[n, hidden] -> [n]: Mahalanobis distance to the mean of the positives."""
        away = (states - self.center) / self.scale - self.mean
        result: Array = np.sqrt(np.maximum((away * self.precision.times(away)).sum(axis=1), 0.0))
        return result


@dataclass(frozen=True)
class ProbeLimits:
    """A row counts as positive if its score is above ``threshold`` and its distance at most ``radius``."""

    threshold: float
    radius: float


def fit(positive: Array, negative: Array) -> Probe:
    """Fit on two arrays [n, hidden], each with at least two rows."""
    both = np.concatenate([positive, negative])
    scale = both.std(axis=0)
    scale = np.where(scale > 1e-12 * max(1.0, float(np.abs(both).max())), scale, 1.0)
    center = (positive.mean(axis=0) + negative.mean(axis=0)) / 2.0
    one, two = (positive - center) / scale, (negative - center) / scale
    mean: Array = one.mean(axis=0)
    gap: Array = mean - two.mean(axis=0)
    precision = _precision(np.concatenate([one - mean, two - two.mean(axis=0)]))
    direction = precision.times(gap)
    length = float(gap @ direction)
    return Probe(center, scale, direction / length if length > 0 else np.zeros_like(gap), mean, precision)


def calibrate(positive: Array, negative: Array, rate: float, folds: int = FOLDS) -> ProbeLimits:
    """The threshold that a new negative exceeds, and the radius that a new positive leaves, each at most at ``rate``.

    With fewer than 1/rate - 1 rows no finite limit promises that; the largest value seen is taken.
    The threshold is never below 0, halfway between the means: below, a row is nearer to the negatives.
    """
    scores, distances = np.empty(len(negative)), np.empty(len(positive))
    for probe, out_positive, out_negative in _held_out(positive, negative, folds):
        scores[out_negative] = probe.score(negative[out_negative])
        distances[out_positive] = probe.distance(positive[out_positive])
    return ProbeLimits(max(0.0, _quantile(scores, rate)), _quantile(distances, rate))


def within(probe: Probe, states: Array, limits: ProbeLimits) -> NDArray[np.bool_]:
    """[n, hidden] -> [n]: which rows count as positive."""
    result: NDArray[np.bool_] = (probe.score(states) > limits.threshold) & (probe.distance(states) <= limits.radius)
    return result


def held_out_recall(positive: Array, negative: Array, limits: ProbeLimits, folds: int = FOLDS) -> float:
    """Share of the positives that count as such when measured by probes that have not seen them."""
    parts = _held_out(positive, negative, folds)
    return sum(int(within(probe, positive[out], limits).sum()) for probe, out, _ in parts) / len(positive)


def _held_out(positive: Array, negative: Array, folds: int) -> Iterator[tuple[Probe, Any, Any]]:
    """(probe, rows of positive, rows of negative that it has not seen); rows are dealt to folds in turn."""
    for fold in range(folds):
        out_positive, out_negative = (np.arange(len(rows)) % folds == fold for rows in (positive, negative))
        yield fit(positive[~out_positive], negative[~out_negative]), out_positive, out_negative


def _quantile(values: Array, rate: float) -> float:
    rank = min(len(values), math.ceil((1.0 - rate) * (len(values) + 1)))
    return float(np.sort(values)[rank - 1])


def _precision(within: Array) -> Precision:
    """From deviations [n, hidden] within the classes, through the thin SVD."""
    n, hidden = within.shape
    _, singular, rows = np.linalg.svd(within, full_matrices=False)
    variances = singular**2 / n
    mean = float(variances.sum()) / hidden
    if mean <= 0.0:
        return Precision(rows, np.ones(len(rows)), 1.0)
    weight = _shrinkage(within, variances, mean)
    rest = max(weight, 1e-6) * mean
    return Precision(rows, 1.0 / ((1.0 - weight) * variances + rest), 1.0 / rest)


def _shrinkage(within: Array, variances: Array, mean: float) -> float:
    """Ledoit-Wolf weight of the identity, in [0, 1], from norms alone."""
    n, hidden = within.shape
    spread = float((variances**2).sum()) - hidden * mean**2
    noise = (float(((within**2).sum(axis=1) ** 2).sum()) / n - float((variances**2).sum())) / n
    return float(np.clip(noise / spread, 0.0, 1.0)) if spread > 0 else 1.0


def finite(states: Any) -> Array:
    """``states`` as float64.

    Raises:
        ValueError: it is not a matrix or holds NaN or infinity.
    """
    array: Array = np.asarray(states, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"hidden states of shape {array.shape}, finite: {bool(np.isfinite(array).all())}")
    return array
