"""A linear probe: the direction in hidden-state space that separates two classes, with a calibrated threshold.

Pure mathematics on arrays. Linear discriminant analysis with the covariance shrunk towards a multiple of the identity
(Ledoit & Wolf 2004, the shrinkage weight computed from the data), on standardised features. The threshold comes from
cross-fitting: every negative is scored by a probe that has not seen it, and the split-conformal quantile of those
scores bounds the false-positive rate on new negatives like them. Scores are scaled so that the class means lie at
+1/2 and -1/2 times their distance, so scores of probes fitted on different folds compare.

Not covered: negatives unlike the anchors; the bound holds for exchangeable ones only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Probe:
    """``score(x) = (x - center) / scale @ direction``: 1/2 at the positive mean, -1/2 at the negative mean."""

    center: Array
    scale: Array
    direction: Array

    def score(self, states: Array) -> Array:
        """[n, hidden] -> [n]."""
        result: Array = ((states - self.center) / self.scale) @ self.direction
        return result


def fit(positive: Array, negative: Array) -> Probe:
    """Fit on two arrays [n, hidden], each with at least two rows."""
    both = np.concatenate([positive, negative])
    scale = both.std(axis=0)
    scale = np.where(scale > 1e-12 * max(1.0, float(np.abs(both).max())), scale, 1.0)
    center = (positive.mean(axis=0) + negative.mean(axis=0)) / 2.0
    one, two = (positive - center) / scale, (negative - center) / scale
    gap: Array = one.mean(axis=0) - two.mean(axis=0)
    within = np.concatenate([one - one.mean(axis=0), two - two.mean(axis=0)])
    direction = _whiten(within, gap)
    length = float(gap @ direction)
    return Probe(center, scale, direction / length if length > 0 else np.zeros_like(gap))


def calibrate(positive: Array, negative: Array, rate: float, folds: int = FOLDS) -> float:
    """The threshold that a new negative exceeds with probability at most ``rate``.

    With fewer than 1/rate - 1 negatives no finite threshold promises that; the largest negative score is taken.
    Rows are dealt to folds in turn.
    """
    scores = np.empty(len(negative))
    for fold in range(folds):
        seen_one, seen_two = (np.arange(len(rows)) % folds != fold for rows in (positive, negative))
        scores[~seen_two] = fit(positive[seen_one], negative[seen_two]).score(negative[~seen_two])
    rank = min(len(scores), math.ceil((1.0 - rate) * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1])


def held_out_recall(positive: Array, negative: Array, threshold: float, folds: int = FOLDS) -> float:
    """Share of the positives above ``threshold`` when scored by probes that have not seen them."""
    hits = 0
    for fold in range(folds):
        seen_one, seen_two = (np.arange(len(rows)) % folds != fold for rows in (positive, negative))
        hits += int((fit(positive[seen_one], negative[seen_two]).score(positive[~seen_one]) > threshold).sum())
    return hits / len(positive)


def _whiten(within: Array, gap: Array) -> Array:
    """(shrunk covariance)^-1 @ gap, through the thin SVD: never forms a hidden x hidden matrix."""
    n, hidden = within.shape
    _, singular, rows = np.linalg.svd(within, full_matrices=False)
    variances = singular**2 / n
    mean = float(variances.sum()) / hidden
    if mean <= 0.0:
        return gap
    weight = _shrinkage(within, variances, mean)
    rest = max(weight * mean, 1e-6 * mean)
    inside: Array = rows @ gap
    shrunk: Array = rows.T @ (inside / ((1.0 - weight) * variances + rest)) + (gap - rows.T @ inside) / rest
    return shrunk


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
