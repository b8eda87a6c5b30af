"""How the rules judge a number: find the one measurement, check its arithmetic, compare its bounds with the limit.

A record's bounds are claims; the counts are what they are checked against. Every comparison reads ``value <= limit``
or ``value >= limit`` the way round that is false for anything that is not a number.

Not covered: what a rule promises (each rule's own file) and the bounds themselves (``policy/intervals.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from guardrail.policy import intervals
from guardrail.policy.rules import Evidence, Need
from guardrail.records import Compared, Finding, Frozen, Measurement, Rate, Verdict

TOLERANCE = 1e-9
SMALLEST_MARGIN = 1e-6  # below this the n needed runs into the millions and rounding decides
DEFAULT_SPLIT = "gate"
DIFFERENCES = {"increase": "increase over base", "drop": "drop from base"}

Confidence = Annotated[float, Field(gt=0.5, le=0.9999)]
LeastN = Annotated[int, Field(ge=1, le=10_000_000)]
Limit = Annotated[float, Field(ge=0.0, le=1.0)]


class InconclusiveError(Exception):
    """The evidence cannot be judged; the message becomes the finding's reason."""


class BoundVerdict(Frozen):
    """Comparisons of bounds with their limits, and what they come to."""

    verdict: Verdict
    reason: str
    compared: tuple[Compared, ...] = ()


def the_measurement(evidence: Evidence, need: Need) -> Measurement:
    """The one measurement that answers ``need``, with its arithmetic checked.

    Raises:
        InconclusiveError: it is missing, there are several (which to believe?), or its numbers contradict one another.
    """
    if evidence.evaluation is None:
        raise InconclusiveError("there is no evaluation report")
    answers = [found for found in evidence.evaluation.measurements if _answers(found, need)]
    split = evidence.splits.get(need.suite, DEFAULT_SPLIT)
    found = [measurement for measurement in answers if measurement.split == split]
    if not found:
        elsewhere = sorted({measurement.split for measurement in answers})
        hint = f" (only on split {', '.join(elsewhere)}, not on {split})" if elsewhere else ""
        raise InconclusiveError(f"{need} was not measured{hint}")
    if len(found) > 1:
        raise InconclusiveError(f"{need} was measured {len(found)} times; exactly one measurement may be judged")
    _check_arithmetic(found[0])
    return found[0]


def _answers(measurement: Measurement, need: Need) -> bool:
    return (
        measurement.sli == need.sli
        and measurement.suite == need.suite
        and need.attack in ("", measurement.attack)
        and need.judge in ("", measurement.judge.name)
    )


def _check_arithmetic(measurement: Measurement) -> None:
    for owner, rate in (("candidate", measurement.candidate), ("base", measurement.base)):
        for name, claimed, true in (
            ("value", rate.value, rate.hits / rate.n if rate.n else 0.0),
            ("upper", rate.upper, upper(rate, rate.confidence)),
            ("lower", rate.lower, lower(rate, rate.confidence)),
        ):
            if not abs(claimed - true) <= TOLERANCE:
                raise InconclusiveError(
                    f"{owner}.{name} of {measurement.sli.value} on {measurement.suite} is recorded as {claimed:.6g},"
                    f" but its counts give {true:.6g}"
                )


def upper(rate: Rate, confidence: float) -> float:
    """Upper bound on the rate: undecided answers and errors count as hits."""
    return intervals.upper_bound(rate.hits + rate.undecided + rate.errors, rate.n, confidence)


def lower(rate: Rate, confidence: float) -> float:
    """Lower bound on the rate: only certain hits count."""
    return intervals.lower_bound(rate.hits, rate.n, confidence)


def enough(rate: Rate, min_n: int) -> None:
    """Raise :class:`InconclusiveError` where fewer than ``min_n`` items were measured."""
    if not rate.n >= min_n:
        raise InconclusiveError(f"n = {rate.n}, the policy asks for at least {min_n}")


def at_most(measurement: Measurement, limit: float, confidence: float) -> BoundVerdict:
    """The candidate's rate is proven to be at most ``limit``, proven to be above it, or neither."""
    found = _rate(measurement, limit, confidence, "at most")
    return _judged(found, inside=found.upper <= limit, outside=found.lower > limit, text=_told(measurement, found))


def at_least(measurement: Measurement, limit: float, confidence: float) -> BoundVerdict:
    """The candidate's rate is proven to be at least ``limit``, proven to be below it, or neither."""
    found = _rate(measurement, limit, confidence, "at least")
    return _judged(found, inside=found.lower >= limit, outside=found.upper < limit, text=_told(measurement, found))


def _rate(
    measurement: Measurement, limit: float, confidence: float, allowed: Literal["at most", "at least"]
) -> Compared:
    rate = measurement.candidate
    return Compared(
        suite=measurement.suite,
        what="rate",
        n=rate.n,
        hits=rate.hits,
        lower=lower(rate, confidence),
        upper=upper(rate, confidence),
        confidence=confidence,
        allowed=allowed,
        limit=limit,
    )


def _told(measurement: Measurement, found: Compared) -> str:
    between = _between(counts(measurement.candidate), percent(found.lower), percent(found.upper), found.confidence)
    return f"{between}, limit {percent(found.limit)}"


def increase_at_most(measurement: Measurement, limit: float, confidence: float) -> BoundVerdict:
    """Candidate rate minus base rate, hits being bad (attack success, refusals of benign requests)."""
    candidate, base, pairs = measurement.candidate, measurement.base, measurement.pairs
    _check_pairs(measurement, candidate.hits + candidate.undecided + candidate.errors, base.hits)
    return _difference(pairs.candidate_only, pairs.base_only, measurement, limit, confidence, "increase")


def drop_at_most(measurement: Measurement, limit: float, confidence: float) -> BoundVerdict:
    """Base rate minus candidate rate, hits being good (right answers)."""
    base, pairs = measurement.base, measurement.pairs
    _check_pairs(measurement, measurement.candidate.hits, base.hits + base.undecided + base.errors)
    return _difference(pairs.base_only, pairs.candidate_only, measurement, limit, confidence, "drop")


def _check_pairs(measurement: Measurement, candidate_hits: int, base_hits: int) -> None:
    """Pairs and rates tell of the same items, with doubt resolved against the candidate on both sides."""
    pairs, n = measurement.pairs, measurement.candidate.n
    if not pairs.n == n == measurement.base.n:
        raise InconclusiveError(f"pairs ({pairs.n}), candidate ({n}) and base ({measurement.base.n}) differ in n")
    both = candidate_hits - pairs.candidate_only
    if both != base_hits - pairs.base_only or both < 0 or both + pairs.candidate_only + pairs.base_only > n:
        raise InconclusiveError(
            f"pairs (candidate only {pairs.candidate_only}, base only {pairs.base_only}) do not agree with"
            f" {candidate_hits} hits of the candidate and {base_hits} of the base"
        )


def _difference(
    worse: int,
    better: int,
    measurement: Measurement,
    limit: float,
    confidence: float,
    what: Literal["increase", "drop"],
) -> BoundVerdict:
    n = measurement.pairs.n
    high = intervals.difference_upper_bound(worse, better, n, confidence)
    doubt = sum(rate.undecided + rate.errors for rate in (measurement.candidate, measurement.base))
    surely_worse = max(0, worse - doubt)
    low = intervals.difference_lower_bound(surely_worse, min(better + doubt, n - surely_worse), n, confidence)
    found = f"{DIFFERENCES[what]}: {worse} of {n} items worse, {better} better"
    text = f"{_between(found, points(low), points(high), confidence)}, limit {points(limit)}"
    compared = Compared(
        suite=measurement.suite,
        what=what,
        n=n,
        hits=worse,
        lower=low,
        upper=high,
        confidence=confidence,
        allowed="at most",
        limit=limit,
    )
    return _judged(compared, inside=high <= limit, outside=low > limit, text=text)


def _between(found: str, low: str, high: str, confidence: float) -> str:
    return f"{found}, one-sided {confidence:.4g} bounds {low} and {high}"


def _judged(compared: Compared, *, inside: bool, outside: bool, text: str) -> BoundVerdict:
    if inside:
        return BoundVerdict(verdict=Verdict.PASSED, reason=text, compared=(compared,))
    if outside:
        return BoundVerdict(verdict=Verdict.FAILED, reason=text, compared=(compared,))
    return BoundVerdict(verdict=Verdict.INCONCLUSIVE, reason=f"{text}: the sample cannot tell", compared=(compared,))


def finding(rule: str, sli: str, objective: str, judge: Callable[[], BoundVerdict]) -> Finding:
    """What ``judge`` says, as a finding; :class:`InconclusiveError` becomes its reason."""
    try:
        judged = judge()
    except InconclusiveError as reason:
        judged = BoundVerdict(verdict=Verdict.INCONCLUSIVE, reason=str(reason))
    return Finding(
        rule=rule, sli=sli, objective=objective, verdict=judged.verdict, reason=judged.reason, compared=judged.compared
    )


def worst(judged: list[BoundVerdict]) -> BoundVerdict:
    """All of them together: the worst verdict, every reason and comparison; nothing judged is inconclusive."""
    order = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED)
    verdict = min((one.verdict for one in judged), key=order.index, default=Verdict.INCONCLUSIVE)
    compared = tuple(found for one in judged for found in one.compared)
    reason = "; ".join(one.reason for one in judged) or "nothing was judged"
    return BoundVerdict(verdict=verdict, reason=reason, compared=compared)


def too_few(margin: float, confidence: float, min_n: int, objective: str) -> str:
    """Why ``min_n`` items without a single bad one cannot show ``objective``; empty if they can.

    Args:
        margin: distance between the ideal rate (0 or 1) and the limit.
        confidence: of the bound that must fit into the margin.
        min_n: the sample size that the policy promises.
    """
    if not margin >= SMALLEST_MARGIN:
        return f"no sample size can prove {objective}: leave a margin of at least {SMALLEST_MARGIN:g}"
    least = intervals.least_n(margin, confidence)
    if min_n >= least:
        return ""
    return f"min_n: {min_n} can never prove {objective} at confidence {confidence:.4g}: it needs at least {least}"


def halved(confidence: float) -> float:
    """The confidence of each of the two bounds that a paired bound is made of."""
    return 1.0 - (1.0 - confidence) / 2.0


def counts(rate: Rate) -> str:
    """``3 of 300 (2 undecided)``."""
    doubt = [f"{n} {name}" for n, name in ((rate.undecided, "undecided"), (rate.errors, "errors")) if n]
    return f"{rate.hits} of {rate.n}" + (f" ({', '.join(doubt)})" if doubt else "")


def percent(value: float) -> str:
    """A share as a percentage with up to two decimals."""
    return f"{round(value * 100, 2):g}%"


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{round(value * 100, 2):g} points"
