"""Merging against references in plain numpy loops, and the properties that the papers promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from guardrail.model.updates import Update

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Problem:
    """Vectors of one shape with a weight each; on a grid of eighths, where sums are exact in any order."""

    vectors: list[Array]
    weights: list[float]


@st.composite
def problems(draw: st.DrawFn, least: int = 1) -> Problem:
    shape, count = (draw(st.integers(1, 4)), draw(st.integers(1, 4))), draw(st.integers(least, 4))
    cells = st.lists(st.integers(-6, 6), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    vectors = [np.array(draw(cells), dtype=np.float64).reshape(shape) / 8 for _ in range(count)]
    return Problem(vectors, [draw(st.integers(0, 6)) / 4 for _ in range(count)])


def _tensors(vectors: Sequence[Array]) -> list[torch.Tensor]:
    import torch

    return [torch.tensor(vector, dtype=torch.float64) for vector in vectors]


def _matrix(rows: int, columns: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def _update(rows: int, columns: int, rank: int, scale: float, seed: int) -> Update:
    from guardrail.model.updates import Update

    b, a = _tensors([_matrix(rows, rank, seed), _matrix(rank, columns, seed + 1000)])
    return Update(a, b, scale)


def _close(got: torch.Tensor, expected: Array, relative: float = 1e-12) -> bool:
    return float(np.abs(got.numpy() - expected).max()) <= relative * max(1e-300, float(np.abs(expected).max()))


# linear


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=4))
def test_linear_is_the_weighted_sum_whatever_the_ranks_and_scales(parts: list[tuple[int, float, float]]) -> None:
    from guardrail.train.merge_math import linear

    updates = [_update(7, 5, rank, scale, seed) for seed, (rank, scale, _) in enumerate(parts)]
    weights = [weight for _, _, weight in parts]
    merged = linear(updates, weights)
    expected, size = np.zeros((7, 5)), 0.0
    for update, weight in zip(updates, weights, strict=True):
        term = weight * update.scale * (update.b.numpy() @ update.a.numpy())
        expected, size = expected + term, max(size, float(np.abs(term).max()))
    assert float(np.abs(merged.dense.numpy() - expected).max()) <= 1e-12 * size + np.finfo(float).tiny
    assert merged.a.shape[0] == sum(rank for rank, _, _ in parts)


def test_linear_of_an_rslora_adapter_uses_the_scale_that_peft_serves(tmp_path: Path) -> None:
    """peft's own concatenation takes alpha / r there and comes out too large or too small by sqrt(r)."""
    import torch
    from peft import LoraConfig, get_peft_model

    from guardrail.model.updates import read_updates
    from guardrail.train.merge_math import linear

    base = torch.nn.ModuleDict({"q": torch.nn.Linear(6, 5)})
    for name, rank, rslora in [("a", 4, True), ("b", 2, False)]:
        model = get_peft_model(
            base, LoraConfig(r=rank, lora_alpha=8, target_modules=["q"], use_rslora=rslora, init_lora_weights=False)
        )
        model.save_pretrained(str(tmp_path / name))
        (tmp_path / name / "README.md").unlink(missing_ok=True)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        plain = {"auto_mapping": None, "init_lora_weights": True}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config | plain))
        model.unload()
    first, second = (read_updates(tmp_path / name)["q"] for name in "ab")
    merged = linear([first, second], [0.5, 0.25]).dense
    expected = 0.5 * 8 / math.sqrt(4) * (first.b @ first.a) + 0.25 * 8 / 2 * (second.b @ second.a)
    assert float((merged - expected).abs().max()) < 1e-6 * float(expected.abs().max())


def test_linear_is_not_the_sum_of_the_factors() -> None:
    from guardrail.train.merge_math import linear

    one, two = _update(6, 6, 2, 1.0, 1), _update(6, 6, 2, 1.0, 2)
    crossed = (0.5 * one.b + 0.5 * two.b) @ (0.5 * one.a + 0.5 * two.a)
    assert float((linear([one, two], [0.5, 0.5]).dense - crossed).abs().max()) > 0.1


# ties


def _ties(vectors: Sequence[Array], weights: Sequence[float], density: float) -> Array:
    """The three steps, entry by entry."""
    trimmed = []
    for vector in vectors:
        magnitudes = sorted((abs(float(x)) for x in vector.flat), reverse=True)
        threshold = magnitudes[max(1, round(density * vector.size)) - 1]
        trimmed.append([float(x) if abs(x) >= threshold else 0.0 for x in vector.flat])
    result = []
    for entries in zip(*trimmed, strict=True):
        sign = float(np.sign(sum(w * x for w, x in zip(weights, entries, strict=True))))
        agreeing = [(w, x) for w, x in zip(weights, entries, strict=True) if w > 0 and sign and np.sign(x) == sign]
        result.append(sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing) if agreeing else 0.0)
    return np.array(result).reshape(vectors[0].shape)


@given(problems(), st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9, 1.0]))
def test_ties_is_trim_elect_and_disjoint_mean(problem: Problem, density: float) -> None:
    from guardrail.train.merge_math import ties

    got = ties(_tensors(problem.vectors), problem.weights, density)
    assert _close(got, _ties(problem.vectors, problem.weights, density))


def test_ties_on_an_example_worked_by_hand() -> None:
    from guardrail.train.merge_math import ties

    one, two = np.array([[4.0, -3.0, 1.0, 2.0]]), np.array([[2.0, 5.0, 8.0, -0.5]])
    # Kept at density 0.5: [4, -3, 0, 0] and [0, 5, 8, 0]; signs elected: +, 3 * 5 - 1 * 3 > 0: +, +, none.
    got = ties(_tensors([one, two]), [1.0, 3.0], 0.5)
    assert got.tolist() == [[4.0, 5.0, 8.0, 0.0]]
    assert ties(_tensors([one, two]), [2.0, 1.0], 0.5).tolist() == [[4.0, -3.0, 8.0, 0.0]]
    assert ties(_tensors([one, two]), [1.0, 3.0], 1.0).tolist() == [[2.5, 5.0, 6.25, 2.0]]


@given(problems(least=2), st.sampled_from([0.3, 0.6, 1.0]))
@settings(max_examples=30)
def test_the_order_of_vectors_does_not_matter_to_ties(problem: Problem, density: float) -> None:
    from guardrail.train.merge_math import ties

    expected = ties(_tensors(problem.vectors), problem.weights, density).numpy()
    for order in permutations(range(len(problem.vectors))):
        vectors, weights = [problem.vectors[i] for i in order], [problem.weights[i] for i in order]
        assert _close(ties(_tensors(vectors), weights, density), expected)


# dare


def test_dare_without_dropping_is_the_weighted_sum() -> None:
    import torch

    from guardrail.train.merge_math import dare

    vectors = [_matrix(5, 4, seed) for seed in range(3)]
    got = dare(_tensors(vectors), [1.0, -0.5, 2.0], 0.0, torch.Generator().manual_seed(1))
    assert _close(got, vectors[0] - 0.5 * vectors[1] + 2.0 * vectors[2])


def test_dare_keeps_or_drops_and_rescales_what_it_keeps() -> None:
    import torch

    from guardrail.train.merge_math import dare

    vector = _matrix(200, 200, 1)
    got = dare(_tensors([vector]), [1.0], 0.9, torch.Generator().manual_seed(1)).numpy()
    kept = got != 0
    assert np.allclose(got[kept], 10.0 * vector[kept], rtol=1e-12)
    assert abs(kept.mean() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / vector.size)


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_dare_is_unbiased(drop: float) -> None:
    """The mean of 4,000 draws is within five standard errors of the weighted sum, in every entry."""
    import torch

    from guardrail.train.merge_math import dare

    vectors, weights, draws = [_matrix(4, 3, seed) for seed in range(2)], [0.7, -0.3], 4000
    generator = torch.Generator().manual_seed(2)
    mean = np.mean([dare(_tensors(vectors), weights, drop, generator).numpy() for _ in range(draws)], axis=0)
    variance = sum(((w * v) ** 2 for w, v in zip(weights, vectors, strict=True)), np.zeros((4, 3)))
    error = np.sqrt(variance * drop / (1 - drop) / draws)
    assert (np.abs(mean - (0.7 * vectors[0] - 0.3 * vectors[1])) < 5 * error).all()


def test_dare_draws_from_its_generator_and_anew_for_each_vector() -> None:
    import torch

    from guardrail.train.merge_math import dare

    ones = _tensors([np.ones((30, 30))])

    def draw(seed: int, count: int) -> torch.Tensor:
        return dare(ones * count, [1.0] * count, 0.5, torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    assert torch.equal(draw(1, 1), draw(1, 1))
    assert not torch.equal(draw(1, 1), draw(2, 1))
    assert set(draw(1, 2).unique().tolist()) == {0.0, 2.0, 4.0}
    assert torch.equal(torch.get_rng_state(), state)


# slerp


def _slerp(first: Array, second: Array, t: float) -> Array:
    """By rotation in the plane of both: the direction at t times the angle from the first, the norm interpolated."""
    one, two = first / np.linalg.norm(first), second / np.linalg.norm(second)
    across = two - float((one * two).sum()) * one
    angle = math.atan2(float(np.linalg.norm(across)), float((one * two).sum()))
    direction = math.cos(t * angle) * one + math.sin(t * angle) * across / np.linalg.norm(across)
    return np.asarray(direction * ((1 - t) * np.linalg.norm(first) + t * np.linalg.norm(second)))


def _arc(first: Array, second: Array, t: float) -> torch.Tensor:
    from guardrail.train.merge_math import slerp

    one, two = _tensors([first, second])
    return slerp(one, two, t)


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.01, 100))
def test_slerp_rotates_at_constant_speed(seed: int, t: float, size: float) -> None:
    first, second = _matrix(4, 3, seed), size * _matrix(4, 3, seed + 1)
    got, back = _arc(first, second, t), _arc(second, first, 1 - t)
    assert _close(got, _slerp(first, second, t), 1e-9)
    assert _close(back, got.numpy(), 1e-9)


@given(problems(least=2))
def test_slerp_begins_and_ends_exactly(problem: Problem) -> None:
    import torch

    from guardrail.train.merge_math import slerp

    first, second = _tensors(problem.vectors[:2])
    assert torch.equal(slerp(first, second, 0.0), first)
    assert torch.equal(slerp(first, second, 1.0), second)


@pytest.mark.parametrize("second", [1.0, 3.0, -1.0, -2.0, 0.0, 1.0 + 1e-9])
def test_slerp_without_an_arc_is_linear(second: float) -> None:
    first = _matrix(4, 3, 1)
    for t in (0.0, 0.3, 0.5, 1.0):
        expected = (1 - t) * first + t * second * first
        got = _arc(first, second * first, t).numpy()
        assert float(np.abs(got - expected).max()) < 1e-12
        assert float(np.abs(_arc(first * 0, first, t).numpy() - t * first).max()) < 1e-12


def test_slerp_is_continuous_where_it_becomes_linear() -> None:
    from guardrail.train.merge_math import SMALLEST_SINE

    first = np.array([[1.0, 0.0]])
    below, above = (np.array([[math.cos(a), math.sin(a)]]) for a in (0.999 * SMALLEST_SINE, 1.001 * SMALLEST_SINE))
    one, other = (_arc(first, second, 0.5).numpy() for second in (below, above))
    assert abs(np.linalg.norm(one) - np.linalg.norm(other)) < 2e-7


# magmax


@given(problems(least=2))
def test_magmax_takes_the_largest_magnitude_in_any_order(problem: Problem) -> None:
    from guardrail.train.merge_math import magmax

    expected = np.array(
        [
            max(entries, key=lambda x: (abs(x), x))
            for entries in zip(*(vector.flat for vector in problem.vectors), strict=True)
        ]
    )
    for order in permutations(problem.vectors):
        assert (magmax(_tensors(order)).numpy().ravel() == expected).all()


def test_magmax_of_one_update_points_to_wise_ft() -> None:
    from guardrail.train.merge_math import magmax

    with pytest.raises(InvalidInput, match="wise_ft"):
        magmax(_tensors([np.ones((2, 2))]))


# all of them


@given(problems(), st.floats(0, 1))
def test_a_vector_merged_with_itself_is_itself(problem: Problem, t: float) -> None:
    from guardrail.train.merge_math import magmax, slerp, ties

    vector = _tensors(problem.vectors)[0]
    for got in (magmax([vector, vector]), slerp(vector, vector, t), ties([vector, vector], [0.5, 0.25], 1.0)):
        assert _close(got, vector.numpy(), 1e-15)


def test_an_update_merged_with_itself_is_itself() -> None:
    from guardrail.train.merge_math import linear

    update = _update(5, 4, 2, 1.7, 3)
    assert _close(linear([update, update], [0.5, 0.5]).dense, update.dense.numpy())
    assert float(linear([update], [0.0]).dense.abs().max()) == 0.0
    assert _close(linear([update], [1.0]).dense, update.dense.numpy())


def test_half_precision_is_computed_in_float32() -> None:
    import torch

    from guardrail.train.merge_math import dare, linear, magmax, slerp, ties, truncate

    one, two = (tensor.bfloat16() for tensor in _tensors([_matrix(5, 4, 1), _matrix(5, 4, 2)]))
    generator = torch.Generator().manual_seed(1)
    results = [
        ties([one, two], [1.0, 1.0], 0.5),
        dare([one, two], [1.0, 1.0], 0.5, generator),
        slerp(one, two, 0.3),
        magmax([one, two]),
        truncate(one, 2).update.a,
    ]
    update = _update(5, 4, 2, 1.0, 3)
    half = type(update)(update.a.half(), update.b.half(), 0.3)
    assert {result.dtype for result in [*results, linear([half], [0.7]).b]} == {torch.float32}


def test_nothing_given_is_changed() -> None:
    import torch

    from guardrail.train.merge_math import dare, magmax, slerp, ties, truncate

    given_, kept = (_tensors([_matrix(5, 4, 1), _matrix(5, 4, 2)]) for _ in range(2))
    results = [
        ties(given_, [1.0, 1.0], 0.5),
        dare(given_, [1.0, 1.0], 0.5, torch.Generator()),
        magmax(given_),
        slerp(given_[0], given_[1], 0.0),
        slerp(given_[0], given_[1], 0.4),
    ]
    truncate(given_[0], 2)
    for result in results:
        result.zero_()
    assert all(torch.equal(before, after) for before, after in zip(kept, given_, strict=True))


# truncate


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
@pytest.mark.parametrize("rank", [1, 3, 6, 50])
def test_truncation_loses_the_discarded_singular_values(shape: tuple[int, int], rank: int) -> None:
    from guardrail.train.merge_math import truncate

    dense = _matrix(*shape, seed=4)
    values = np.linalg.svd(dense, compute_uv=False)
    got = truncate(_tensors([dense])[0], rank)
    assert got.rank == min(rank, *shape) == got.update.a.shape[0] == got.update.b.shape[1]
    assert got.relative_error == pytest.approx(np.linalg.norm(values[rank:]) / np.linalg.norm(values), abs=1e-12)
    a, b = got.update.a.numpy(), got.update.b.numpy()
    assert np.allclose(a @ a.T, np.diag(values[: got.rank]), atol=1e-12)
    assert np.allclose(b.T @ b, np.diag(values[: got.rank]), atol=1e-12)
    assert got.update.scale == 1.0


def test_truncation_to_the_rank_of_a_merge_loses_nothing() -> None:
    from guardrail.train.merge_math import linear, truncate

    dense = linear([_update(12, 10, 2, 0.5, 1), _update(12, 10, 3, 2.0, 2)], [0.4, 0.6]).dense
    assert truncate(dense, 5).relative_error < 1e-14
    assert _close(truncate(dense, 5).update.dense, dense.numpy())
    assert truncate(dense, 4).relative_error > 1e-3


def test_a_matrix_of_zeros_truncates_to_zeros_without_error() -> None:
    import torch

    from guardrail.train.merge_math import truncate

    got = truncate(torch.zeros(4, 3), 2)
    assert got.relative_error == 0.0
    assert float(got.update.dense.abs().max()) == 0.0


def test_beyond_the_size_of_an_exact_svd_the_error_is_near_the_smallest_and_repeats() -> None:
    """On singular values that fall off slowly, the hard case for a randomised SVD."""
    import torch

    from guardrail.train.merge_math import EXACT_SVD_UP_TO, truncate

    size = EXACT_SVD_UP_TO + 1
    dense = _matrix(size, size + 9, 1) * np.arange(1, size + 10) ** -0.5
    values = np.linalg.svd(dense, compute_uv=False)
    state = torch.get_rng_state()
    got, again = (truncate(torch.tensor(dense), 16) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(got.update.a, again.update.a)
    kept, most = 1 - got.relative_error**2, float((values[:16] ** 2).sum() / (values**2).sum())
    assert 0.999 * most < kept < most + 1e-12
    residual = np.linalg.norm(dense - got.update.b.numpy() @ got.update.a.numpy()) / np.linalg.norm(dense)
    assert got.relative_error == pytest.approx(float(residual), rel=1e-9)


# refusals


def _refusals() -> dict[str, Callable[[], object]]:
    import torch

    from guardrail.train.merge_math import dare, linear, magmax, slerp, ties, truncate

    one, other, generator = torch.ones(2, 3), torch.ones(3, 2), torch.Generator()
    update, wide = _update(4, 4, 2, 1.0, 1), _update(4, 5, 2, 1.0, 1)
    return {
        "weights count, linear": lambda: linear([update], [1.0, 2.0]),
        "weights count, ties": lambda: ties([one, one], [1.0], 0.5),
        "weights count, dare": lambda: dare([one, one], [1.0], 0.5, generator),
        "weight not finite": lambda: linear([update], [math.nan]),
        "weight negative in a mean": lambda: ties([one, one], [1.0, -1.0], 0.5),
        "nothing, linear": lambda: linear([], []),
        "nothing, ties": lambda: ties([], [], 0.5),
        "nothing, dare": lambda: dare([], [], 0.5, generator),
        "nothing, magmax": lambda: magmax([]),
        "shapes, linear": lambda: linear([update, wide], [1.0, 1.0]),
        "shapes, ties": lambda: ties([one, other], [1.0, 1.0], 0.5),
        "shapes, dare": lambda: dare([one, other], [1.0, 1.0], 0.5, generator),
        "shapes, slerp": lambda: slerp(one, other, 0.5),
        "shapes, magmax": lambda: magmax([one, other]),
        "density 0": lambda: ties([one], [1.0], 0.0),
        "density above 1": lambda: ties([one], [1.0], 1.01),
        "density nan": lambda: ties([one], [1.0], math.nan),
        "drop 1": lambda: dare([one], [1.0], 1.0, generator),
        "drop negative": lambda: dare([one], [1.0], -0.1, generator),
        "t above 1": lambda: slerp(one, one, 1.1),
        "t negative": lambda: slerp(one, one, -0.1),
        "rank 0": lambda: truncate(one, 0),
        "not a matrix": lambda: truncate(torch.ones(3), 1),
        "not finite": lambda: truncate(one * math.inf, 1),
    }


def test_what_makes_no_sense_is_refused_with_what_would() -> None:
    for name, call in _refusals().items():
        with pytest.raises(InvalidInput) as caught:
            call()
        assert caught.value.expected, name
