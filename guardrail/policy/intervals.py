"""Exact one-sided bounds on rates and on paired differences: pure functions, no record types.

These live beside the policy, not beside the evaluation, because whoever decides must be able to recompute every
bound from the counts alone: a bound written into a record is a claim, the counts are what it is checked against.

Not covered: clustered data (bound over behaviours, not over prompts) and sequential looks (split the error rate
before calling). Sources: Clopper & Pearson (1934); Bonferroni for the paired difference.
"""

from __future__ import annotations

import math


def upper_bound(hits: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound on a rate; 1.0 when nothing was measured.

    Args:
        hits: number of hits, 0 <= hits <= n.
        n: number of trials.
        confidence: coverage of the one-sided bound, such as 0.95.

    Raises:
        ValueError: counts or confidence out of range.
    """
    _check(hits, n, confidence)
    if n == 0 or hits == n:
        return 1.0
    return _beta_quantile(hits + 1, n - hits, confidence)


def lower_bound(hits: int, n: int, confidence: float) -> float:
    """One-sided Clopper-Pearson lower bound on a rate; 0.0 when nothing was measured."""
    _check(hits, n, confidence)
    if n == 0 or hits == 0:
        return 0.0
    return _beta_quantile(hits, n - hits + 1, 1.0 - confidence)


def difference_upper_bound(candidate_only: int, base_only: int, n: int, confidence: float) -> float:
    """Upper bound on (candidate rate - base rate) from paired counts; 1.0 when nothing was measured.

    The difference is P(only candidate hits) - P(only base hits); each share gets half of the error rate, so the
    bound holds whatever their dependence (conservative, exact). Shapes: scalars in, scalar in [-1, 1] out.
    """
    if candidate_only + base_only > n:
        raise ValueError(f"discordant pairs {candidate_only} + {base_only} exceed n = {n}")
    half = 1.0 - (1.0 - confidence) / 2.0
    return upper_bound(candidate_only, n, half) - lower_bound(base_only, n, half)


def difference_lower_bound(candidate_only: int, base_only: int, n: int, confidence: float) -> float:
    """Lower bound on (candidate rate - base rate) from paired counts; -1.0 when nothing was measured."""
    return -difference_upper_bound(base_only, candidate_only, n, confidence)


def least_n(limit: float, confidence: float) -> int:
    """The fewest trials whose upper bound can reach ``limit``: with no hit at all, (1 - limit)**n <= 1 - confidence.

    Raises:
        ValueError: no sample size can prove a limit of 0 or less.
    """
    if not limit > 0.0:
        raise ValueError(f"no sample size proves a rate of at most {limit}")
    if limit >= 1.0:
        return 1
    n = math.ceil(math.log(1.0 - confidence) / math.log(1.0 - limit))
    while upper_bound(0, n, confidence) > limit:  # rounding at the edge
        n += 1
    return n


def _check(hits: int, n: int, confidence: float) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie between 0 and n: {hits} of {n}")
    if not 0.5 <= confidence < 1.0:
        raise ValueError(f"confidence must lie in [0.5, 1): {confidence}")


def _beta_quantile(a: float, b: float, q: float) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(a, b, q))
