"""Tally: doubt (an undecided verdict, an engine error) always counts against the candidate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.evaluate.tally import BAD_HITS, Outcome, pairs, rate, worst_variant
from guardrail.policy.intervals import difference_lower_bound, difference_upper_bound
from guardrail.records import Sli

OUTCOMES = st.lists(st.sampled_from(Outcome), min_size=1, max_size=60)
SLIS = st.sampled_from(Sli)
CERTAIN = st.lists(st.sampled_from([Outcome.HIT, Outcome.MISS]), min_size=1, max_size=60)
DOUBT = st.sampled_from([Outcome.UNDECIDED, Outcome.ERROR])
BAD, GOOD = sorted(BAD_HITS), sorted(set(Sli) - BAD_HITS)


def _good(sli: Sli) -> Outcome:
    return Outcome.MISS if sli in BAD_HITS else Outcome.HIT


def _bad(sli: Sli) -> Outcome:
    return Outcome.HIT if sli in BAD_HITS else Outcome.MISS


@given(SLIS, OUTCOMES)
def test_one_bad_variant_decides_the_behaviour(sli: Sli, outcomes: list[Outcome]) -> None:
    assert worst_variant(sli, [*outcomes, _bad(sli)]) is _bad(sli)


@given(SLIS, OUTCOMES)
def test_a_behaviour_is_good_only_if_every_variant_is(sli: Sli, outcomes: list[Outcome]) -> None:
    assert (worst_variant(sli, outcomes) is _good(sli)) == (set(outcomes) == {_good(sli)})


@given(SLIS, OUTCOMES, st.randoms(use_true_random=False))
def test_the_order_of_variants_does_not_matter(sli: Sli, outcomes: list[Outcome], random: object) -> None:
    shuffled = list(outcomes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert worst_variant(sli, shuffled) is worst_variant(sli, outcomes)


@given(OUTCOMES)
def test_a_rate_counts_every_behaviour_once_and_its_bounds_enclose_it(outcomes: list[Outcome]) -> None:
    found = rate(outcomes, 0.95)
    misses = found.n - found.hits - found.undecided - found.errors
    assert (found.n, misses) == (len(outcomes), outcomes.count(Outcome.MISS))
    assert found.lower <= found.value <= found.upper


@given(OUTCOMES, DOUBT, st.data())
def test_doubt_never_lowers_the_bound_on_a_bad_rate(
    outcomes: list[Outcome], doubt: Outcome, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(outcomes) - 1))
    doubtful = [*outcomes[:index], doubt, *outcomes[index + 1 :]]
    assert rate(doubtful, 0.95).upper >= rate(outcomes, 0.95).upper


@given(OUTCOMES, DOUBT, st.data())
def test_doubt_never_raises_the_bound_on_a_good_rate(
    outcomes: list[Outcome], doubt: Outcome, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(outcomes) - 1))
    doubtful = [*outcomes[:index], doubt, *outcomes[index + 1 :]]
    assert rate(doubtful, 0.95).lower <= rate(outcomes, 0.95).lower


def test_a_suite_of_errors_alone_proves_nothing() -> None:
    found = rate([Outcome.ERROR] * 400, 0.95)
    assert (found.value, found.lower, found.upper) == (0.0, 0.0, 1.0)


def test_a_rate_over_nothing_spans_everything() -> None:
    found = rate([], 0.95)
    assert (found.n, found.lower, found.upper) == (0, 0.0, 1.0)


@given(
    st.sampled_from(BAD),
    st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from(Outcome)), min_size=1),
    DOUBT,
    st.data(),
)
def test_doubt_about_either_model_never_lowers_an_increase(
    sli: Sli, both: list[tuple[Outcome, Outcome]], doubt: Outcome, data: st.DataObject
) -> None:
    before = _increase(sli, both)
    assert _increase(sli, _with_doubt(both, doubt, data)) >= before


@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from(Outcome)), min_size=1),
    DOUBT,
    st.data(),
)
def test_doubt_about_either_model_never_shrinks_a_drop(
    sli: Sli, both: list[tuple[Outcome, Outcome]], doubt: Outcome, data: st.DataObject
) -> None:
    before = _drop(sli, both)
    assert _drop(sli, _with_doubt(both, doubt, data)) >= before


@given(SLIS, CERTAIN)
def test_a_candidate_that_equals_its_base_has_no_discordant_pair(sli: Sli, outcomes: list[Outcome]) -> None:
    found = pairs(sli, outcomes, outcomes)
    assert (found.n, found.candidate_only, found.base_only) == (len(outcomes), 0, 0)


def test_pairs_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        pairs(Sli.UTILITY, [Outcome.HIT], [])


def _with_doubt(
    both: list[tuple[Outcome, Outcome]], doubt: Outcome, data: st.DataObject
) -> list[tuple[Outcome, Outcome]]:
    index = data.draw(st.integers(0, len(both) - 1))
    ours, theirs = both[index]
    changed = (doubt, theirs) if data.draw(st.booleans()) else (ours, doubt)
    return [*both[:index], changed, *both[index + 1 :]]


def _increase(sli: Sli, both: list[tuple[Outcome, Outcome]]) -> float:
    found = pairs(sli, [ours for ours, _ in both], [theirs for _, theirs in both])
    return difference_upper_bound(found.candidate_only, found.base_only, found.n, 0.95)


def _drop(sli: Sli, both: list[tuple[Outcome, Outcome]]) -> float:
    found = pairs(sli, [ours for ours, _ in both], [theirs for _, theirs in both])
    return -difference_lower_bound(found.candidate_only, found.base_only, found.n, 0.95)
