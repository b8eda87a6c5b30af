"""The bounds agree with scipy's, cover what they promise, and answer the edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from guardrail.policy.intervals import (
    difference_lower_bound,
    difference_upper_bound,
    least_n,
    lower_bound,
    upper_bound,
)

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.975, 0.99, 0.999])


@settings(max_examples=60)
@given(counts, confidences)
def test_bounds_equal_scipys_one_sided_exact_interval(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    high = binomtest(hits, n, alternative="less").proportion_ci(confidence, method="exact").high
    low = binomtest(hits, n, alternative="greater").proportion_ci(confidence, method="exact").low
    assert upper_bound(hits, n, confidence) == pytest.approx(high, abs=1e-9)
    assert lower_bound(hits, n, confidence) == pytest.approx(low, abs=1e-9)


@given(counts, confidences)
def test_bounds_enclose_the_rate_and_mirror_each_other(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    assert lower_bound(hits, n, confidence) <= hits / n <= upper_bound(hits, n, confidence)
    assert upper_bound(hits, n, confidence) == pytest.approx(1.0 - lower_bound(n - hits, n, confidence), abs=1e-9)


@given(counts, confidences)
def test_one_more_hit_never_lowers_a_bound(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    if hits < n:
        assert upper_bound(hits, n, confidence) <= upper_bound(hits + 1, n, confidence)
        assert lower_bound(hits, n, confidence) <= lower_bound(hits + 1, n, confidence)


@pytest.mark.parametrize(("n", "expected"), [(59, 0.0495), (100, 0.0295), (300, 0.00994)])
def test_no_hit_proves_the_known_limits(n: int, expected: float) -> None:
    assert upper_bound(0, n, 0.95) == pytest.approx(expected, abs=1e-4)


def test_nothing_measured_proves_nothing() -> None:
    assert (upper_bound(0, 0, 0.95), lower_bound(0, 0, 0.95)) == (1.0, 0.0)
    assert (difference_upper_bound(0, 0, 0, 0.95), difference_lower_bound(0, 0, 0, 0.95)) == (1.0, -1.0)


@pytest.mark.parametrize(("limit", "n"), [(0.05, 59), (0.02, 149), (0.01, 299), (1.0, 1)])
def test_least_n_is_the_known_one(limit: float, n: int) -> None:
    assert least_n(limit, 0.95) == n


@given(st.floats(0.001, 0.999), confidences)
def test_least_n_suffices_and_one_less_does_not(limit: float, confidence: float) -> None:
    n = least_n(limit, confidence)
    assert upper_bound(0, n, confidence) <= limit
    assert n == 1 or upper_bound(0, n - 1, confidence) > limit


@pytest.mark.parametrize("limit", [0.0, -0.1, math.nan])
def test_no_sample_proves_a_rate_of_nothing(limit: float) -> None:
    with pytest.raises(ValueError, match="no sample size"):
        least_n(limit, 0.95)


@pytest.mark.parametrize(("hits", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.4)])
def test_impossible_arguments_are_refused(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="must lie"):
        upper_bound(hits, n, confidence)


def test_discordant_pairs_beyond_n_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed"):
        difference_upper_bound(2, 2, 3, 0.95)


@pytest.mark.parametrize("n", [1, 4, 8])
def test_the_paired_bound_covers_the_true_difference_by_exhaustive_enumeration(n: int) -> None:
    """For every (p, q) on a grid, the outcomes whose bound lies below p - q have at most 5% probability."""
    grid = [step / 10 for step in range(11)]
    bounds = {(a, b): difference_upper_bound(a, b, n, 0.95) for a in range(n + 1) for b in range(n + 1 - a)}
    for p in grid:
        for q in (value for value in grid if value <= 1.0 - p + 1e-12):
            missed = sum(_multinomial(a, b, n, p, q) for (a, b), bound in bounds.items() if bound < p - q - 1e-9)
            assert missed <= 0.05 + 1e-9, (p, q, missed)


def _multinomial(a: int, b: int, n: int, p: float, q: float) -> float:
    ways = math.comb(n, a) * math.comb(n - a, b)
    return float(ways * p**a * q**b * max(0.0, 1.0 - p - q) ** (n - a - b))
