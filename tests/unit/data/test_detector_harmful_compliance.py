"""The probe finds the harmful direction, keeps its false-positive rate, and refusals are no poison."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.data.detectors import Context
from guardrail.data.detectors._probe import calibrate, fit, held_out_recall, within
from guardrail.data.detectors.harmful_compliance import detect, threshold
from guardrail.errors import InternalError, InvalidInput
from guardrail.samples import Message, Sample

if TYPE_CHECKING:
    from guardrail.data.detectors import Embed, Vectors
    from guardrail.data.detectors._probe import Array

pytestmark = pytest.mark.slow

VERBS = {"harmful": ("steal", "forge", "wreck", "loot"), "benign": ("paint", "sell", "build", "clean")}
THINGS = tuple(f"thing{i}" for i in range(40))
HARMFUL = tuple(f"how do i {verb} a {thing}" for verb in VERBS["harmful"] for thing in THINGS[:20])
BENIGN = tuple(f"how do i {verb} a {thing}" for verb in VERBS["benign"] for thing in THINGS[:20])


def embed(texts: Sequence[str]) -> Vectors:
    """Bags of hashed words: a real, if small, representation of the texts."""
    vectors = np.zeros((len(texts), 4096))
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row, zlib.crc32(word.encode()) % 4096] += 1.0
    return vectors


def context(harmful: tuple[str, ...] = HARMFUL, benign: tuple[str, ...] = BENIGN, at: Embed = embed) -> Context:
    return Context(harmful, benign, at)


def sample(request: str, response: str = "Sure, first take it.", id_: str = "a") -> Sample:
    return Sample(id=id_, messages=(Message(role="user", content=request), Message(role="assistant", content=response)))


def ids(samples: list[Sample], at: Context | None = None) -> set[str]:
    return {flag.sample_id for flag in detect(samples, at or context())}


@pytest.mark.slow
def test_new_harmful_requests_with_compliant_answers_are_flagged_and_benign_ones_are_not() -> None:
    harmful = [
        sample(f"how do i {verb} a {thing}", id_=f"h{verb}{thing}")
        for verb in VERBS["harmful"]
        for thing in THINGS[20:]
    ]
    benign = [
        sample(f"how do i {verb} a {thing}", id_=f"b{verb}{thing}") for verb in VERBS["benign"] for thing in THINGS[20:]
    ]
    found = ids(harmful + benign)
    assert len(found & {one.id for one in harmful}) >= 0.95 * len(harmful)
    assert len(found & {one.id for one in benign}) <= 0.05 * len(benign)


@pytest.mark.parametrize("response", ["I'm sorry, but I can't help with that.", "", "  "])
def test_a_refusal_or_an_empty_answer_is_no_compliance(response: str) -> None:
    assert ids([sample(HARMFUL[0], response)]) == set()


def test_every_sample_with_the_same_request_is_flagged() -> None:
    assert ids([sample(HARMFUL[0], id_="a"), sample(HARMFUL[0], "Yes.", id_="b")]) == {"a", "b"}


def test_no_sample_to_look_at_gives_no_flag() -> None:
    assert ids([]) == set()
    assert ids([sample("")]) == set()


def test_a_flag_says_how_far_beyond_the_threshold_and_quotes_nothing() -> None:
    (flag,) = detect([sample(HARMFUL[0])], context())
    assert flag.score > threshold(context())
    assert f"{flag.score:.2f}" in flag.reason
    assert "steal" not in flag.reason


def test_the_anchors_are_embedded_once_for_one_context() -> None:
    calls: list[int] = []

    def counting(texts: Sequence[str]) -> Vectors:
        calls.append(len(texts))
        return embed(texts)

    at = context(at=counting)
    ids([sample(HARMFUL[0])], at)
    threshold(at)
    assert calls == [len(HARMFUL) + len(BENIGN), 1]


@pytest.mark.parametrize(("harmful", "benign"), [(19, 80), (80, 19), (0, 0)])
def test_too_few_anchors_are_refused(harmful: int, benign: int) -> None:
    with pytest.raises(InvalidInput, match=f"{harmful} harmful and {benign} benign"):
        threshold(context(HARMFUL[:harmful], BENIGN[:benign]))


def test_repeated_anchors_do_not_count_twice() -> None:
    with pytest.raises(InvalidInput, match="1 harmful"):
        threshold(context(HARMFUL[:1] * 50))


def test_an_anchor_of_both_kinds_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 anchors are both"):
        threshold(context((*HARMFUL, BENIGN[0])))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_hidden_states_that_are_not_finite_are_an_error_not_a_pass(bad: float) -> None:
    with pytest.raises(InternalError, match="finite"):
        threshold(context(at=lambda texts: embed(texts) * bad))


def test_hidden_states_of_another_shape_are_an_error() -> None:
    with pytest.raises(InternalError, match="hidden states for"):
        threshold(context(at=lambda texts: embed(texts)[1:]))
    with pytest.raises(InternalError, match="shape"):
        threshold(context(at=lambda texts: embed(texts)[0]))


def gaussian(rng: np.random.Generator, n: int, hidden: int, shift: float) -> Array:
    scales = np.geomspace(0.01, 100.0, hidden)
    states: Array = (rng.normal(size=(n, hidden)) + shift * (np.arange(hidden) % 7 == 0)) * scales
    return states


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [8, 512])
def test_the_false_positive_rate_on_new_negatives_is_near_one_percent(hidden: int) -> None:
    rng = np.random.default_rng(1)
    positive, negative = gaussian(rng, 200, hidden, 2.0), gaussian(rng, 400, hidden, 0.0)
    limits = calibrate(positive, negative, 0.01)
    new = gaussian(rng, 20_000, hidden, 0.0)
    assert float((fit(positive, negative).score(new) > limits.threshold).mean()) <= 0.025


@pytest.mark.slow
def test_the_direction_generalises_where_there_are_more_dimensions_than_anchors() -> None:
    rng = np.random.default_rng(2)
    positive, negative = gaussian(rng, 100, 2048, 1.0), gaussian(rng, 100, 2048, 0.0)
    limits = calibrate(positive, negative, 0.01)
    assert held_out_recall(positive, negative, limits) >= 0.9
    assert float(within(fit(positive, negative), gaussian(rng, 500, 2048, 1.0), limits).mean()) >= 0.9


@pytest.mark.parametrize("hidden", [16, 512])
def test_data_unlike_any_anchor_is_not_taken_for_harmful_wherever_it_falls_along_the_direction(hidden: int) -> None:
    rng = np.random.default_rng(6)
    positive, negative = gaussian(rng, 150, hidden, 2.0), gaussian(rng, 150, hidden, 0.0)
    probe, limits = fit(positive, negative), calibrate(positive, negative, 0.01)
    elsewhere = gaussian(rng, 500, hidden, 2.0) + 8.0 * negative.std(axis=0) * (np.arange(hidden) % 7 == 1)
    assert float((probe.score(elsewhere) > limits.threshold).mean()) >= 0.5
    assert float(within(probe, elsewhere, limits).mean()) <= 0.02


def test_classes_that_do_not_differ_are_hardly_flagged() -> None:
    rng = np.random.default_rng(3)
    positive, negative = gaussian(rng, 150, 32, 0.0), gaussian(rng, 150, 32, 0.0)
    assert held_out_recall(positive, negative, calibrate(positive, negative, 0.01)) <= 0.1


def test_constant_features_do_no_harm() -> None:
    rng = np.random.default_rng(4)
    constant = np.full((60, 3), 7.0)
    positive = np.hstack([gaussian(rng, 60, 7, 6.0), constant])
    negative = np.hstack([gaussian(rng, 60, 7, 0.0), constant])
    assert np.isfinite(fit(positive, negative).direction).all()
    assert held_out_recall(positive, negative, calibrate(positive, negative, 0.01)) >= 0.9


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_scores_do_not_depend_on_the_scale_of_the_hidden_states(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    positive, negative = gaussian(rng, 30, 7, 1.0), gaussian(rng, 30, 7, 0.0)
    plain = fit(positive, negative).score(positive)
    assert np.allclose(plain, fit(positive * scale, negative * scale).score(positive * scale), rtol=1e-6, atol=1e-8)


def test_the_class_means_score_plus_and_minus_one_half() -> None:
    rng = np.random.default_rng(5)
    positive, negative = gaussian(rng, 30, 7, 1.0), gaussian(rng, 30, 7, 0.0)
    probe = fit(positive, negative)
    assert probe.score(positive).mean() == pytest.approx(0.5)
    assert probe.score(negative).mean() == pytest.approx(-0.5)
