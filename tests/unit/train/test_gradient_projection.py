"""A-GEM and Refresh: properties of the projection, and float64 references written out in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from guardrail.errors import InternalError

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow

SHAPES = ((2, 3), (4,), (1, 1))
SIZE = 11
NUMBER = st.floats(-1e6, 1e6, width=32)
VECTOR = st.lists(NUMBER, min_size=SIZE, max_size=SIZE)


def _split(values: Sequence[float], dtype: str = "float32") -> tuple[torch.Tensor, ...]:
    """A vector of SIZE numbers as tensors of SHAPES."""
    import torch

    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    parts = np.split(np.asarray(values, dtype=np.float64), ends[:-1])
    return tuple(
        torch.tensor(part, dtype=getattr(torch, dtype)).reshape(shape)
        for part, shape in zip(parts, SHAPES, strict=True)
    )


def _joined(tensors: Sequence[torch.Tensor]) -> Any:
    return np.concatenate([tensor.double().flatten().numpy() for tensor in tensors])


def _reference(g: Any, r: Any) -> Any:
    """The part of g that is orthogonal to r, where it points against it."""
    return g - (g @ r) / (r @ r) * r if g @ r < 0 else g


def _rounding(g: Any, r: Any, dtype: str = "float32") -> float:
    """What rounding each entry of a gradient of g's length may change in its product with r."""
    return 4 * SIZE * float(np.finfo(dtype).eps) * float(np.linalg.norm(g) * np.linalg.norm(r)) + 1e-30


@given(VECTOR, VECTOR)
def test_the_projected_gradient_never_points_against_the_reference(g: list[float], r: list[float]) -> None:
    from guardrail.train.gradient_projection import agem

    projected = _joined(agem(_split(g), _split(r)).gradient)
    assert projected @ _joined(_split(r)) >= -_rounding(_joined(_split(g)), _joined(_split(r)))


@given(VECTOR, VECTOR)
def test_a_gradient_that_does_not_point_against_the_reference_stays_bit_for_bit(g: list[float], r: list[float]) -> None:
    import torch

    from guardrail.train.gradient_projection import agem

    gradient, reference = _split(g), _split(r)
    assume(_joined(gradient) @ _joined(reference) >= 0)
    result = agem(gradient, reference)
    assert not result.violated
    assert all(torch.equal(a, b) for a, b in zip(result.gradient, gradient, strict=True))


@given(VECTOR, VECTOR, st.sampled_from(["float32", "float64"]))
def test_the_projection_is_that_of_the_definition(g: list[float], r: list[float], dtype: str) -> None:
    from guardrail.train.gradient_projection import agem

    gradient, reference = _split(g, dtype), _split(r, dtype)
    a, b = _joined(gradient), _joined(reference)
    assume(float(b @ b) > 1e-60)
    result = agem(gradient, reference)
    scale = float(np.linalg.norm(a))
    assert result.violated == (result.product < 0)
    assert result.product == pytest.approx(float(a @ b), rel=1e-9, abs=1e-12 * scale * float(np.linalg.norm(b)))
    assert np.abs(_joined(result.gradient) - _reference(a, b)).max() <= 4 * float(np.finfo(dtype).eps) * scale + 1e-30
    assert [(t.shape, t.dtype) for t in result.gradient] == [(t.shape, t.dtype) for t in gradient]


@given(VECTOR, VECTOR)
def test_projecting_twice_is_projecting_once(g: list[float], r: list[float]) -> None:
    from guardrail.train.gradient_projection import agem

    reference = _split(r)
    once = agem(_split(g), reference).gradient
    twice = agem(once, reference).gradient
    assert np.abs(_joined(once) - _joined(twice)).max() <= 1e-5 * float(np.linalg.norm(_joined(_split(g)))) + 1e-30


@given(VECTOR, VECTOR, st.integers(-10, 10))
def test_the_length_of_the_reference_does_not_matter_and_that_of_the_gradient_scales(
    g: list[float], r: list[float], exponent: int
) -> None:
    from guardrail.train.gradient_projection import agem

    gradient, reference, factor = _split(g, "float64"), _split(r, "float64"), 2.0**exponent
    plain = _joined(agem(gradient, reference).gradient)
    tolerance = 1e-12 * float(np.linalg.norm(_joined(gradient)))
    longer = _joined(agem(gradient, tuple(factor * t for t in reference)).gradient)
    assert np.abs(longer - plain).max() <= tolerance
    scaled = _joined(agem(tuple(factor * t for t in gradient), reference).gradient)
    assert np.abs(scaled - factor * plain).max() <= factor * tolerance


@given(VECTOR)
def test_a_reference_of_zero_leaves_the_gradient(g: list[float]) -> None:
    import torch

    from guardrail.train.gradient_projection import agem

    result = agem(_split(g), _split([0.0] * SIZE))
    assert (result.violated, result.product) == (False, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(result.gradient, _split(g), strict=True))


def test_the_opposite_of_the_reference_is_projected_to_nothing() -> None:
    from guardrail.train.gradient_projection import agem

    reference = _split(range(1, SIZE + 1))
    result = agem(tuple(-t for t in reference), reference)
    assert result.violated
    assert float(np.abs(_joined(result.gradient)).max()) == 0.0


def test_the_product_is_one_of_whole_gradients_not_of_tensors_one_by_one() -> None:
    import torch

    from guardrail.train.gradient_projection import agem

    gradient, reference = (torch.tensor([-1.0]), torch.tensor([3.0])), (torch.tensor([1.0]), torch.tensor([1.0]))
    assert not agem(gradient, reference).violated


def test_small_terms_survive_beside_large_ones() -> None:
    """In float32 the sum would lose the -1 between 2^30 and -2^30."""
    import torch

    from guardrail.train.gradient_projection import dot

    first, second = torch.tensor([2.0**15, -1.0, -(2.0**15)]), torch.tensor([2.0**15, 1.0, 2.0**15])
    assert dot([first], [second]) == -1.0
    assert dot([first.bfloat16()], [second.bfloat16()]) == -1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_a_bug(bad: float) -> None:
    import torch

    from guardrail.train.gradient_projection import agem, raises_loss

    with pytest.raises(InternalError):
        agem([torch.tensor([1.0, bad])], [torch.tensor([1.0, 1.0])])
    with pytest.raises(InternalError):
        raises_loss([torch.tensor([1.0, 1.0])], [torch.tensor([bad, 1.0])])


def test_gradients_of_different_shapes_have_no_product() -> None:
    import torch

    from guardrail.train.gradient_projection import agem, ascent

    one, other = [torch.ones(2, 1)], [torch.ones(2, 2)]
    for first, second in ((one, other), (one, one * 2), ([], [])):
        with pytest.raises(InternalError):
            agem(first, second)
    with pytest.raises(InternalError):
        ascent(one, other, length=1.0, damping=1.0)


@given(VECTOR)
def test_going_down_a_gradient_lowers_its_loss_and_going_up_raises_it(r: list[float]) -> None:
    from guardrail.train.gradient_projection import raises_loss

    reference = _split(r)
    moves = any(value != 0.0 for value in _joined(reference))
    assert raises_loss(tuple(0.1 * t for t in reference), reference) == moves
    assert not raises_loss(tuple(-t for t in reference), reference)
    assert not raises_loss(_split([0.0] * SIZE), reference)


@given(VECTOR, VECTOR)
def test_a_step_against_the_projected_gradient_does_not_raise_the_reference_loss(
    g: list[float], r: list[float]
) -> None:
    from guardrail.train.gradient_projection import agem, dot

    gradient, reference = _split(g, "float64"), _split(r, "float64")
    step = tuple(-t for t in agem(gradient, reference).gradient)
    assert dot(step, reference) <= _rounding(_joined(gradient), _joined(reference), "float64")


@given(st.lists(VECTOR, min_size=1, max_size=6), st.floats(0.0, 1.0))
def test_the_average_of_squares_is_exponential(gradients: list[list[float]], decay: float) -> None:
    from guardrail.train.gradient_projection import average_squares

    average: tuple[torch.Tensor, ...] = ()
    expected = np.asarray(gradients[0]) ** 2
    for index, values in enumerate(gradients):
        average = average_squares(average, _split(values, "float64"), decay)
        if index:
            expected = decay * expected + (1 - decay) * np.asarray(values) ** 2
    assert np.allclose(_joined(average), expected, rtol=1e-9, atol=1e-300)
    assert not any(tensor.requires_grad for tensor in average)


def test_the_average_is_kept_in_float32_and_goes_on_from_stored_tensors() -> None:
    import torch

    from guardrail.train.gradient_projection import average_squares

    gradients = [_split(np.linspace(-1, 1 + step, SIZE).tolist()) for step in range(3)]
    first = average_squares((), [t.bfloat16() for t in gradients[0]], 0.9)
    assert {t.dtype for t in first} == {torch.float32}
    second = average_squares(first, gradients[1], 0.9)
    stored = tuple(t.clone() for t in second)
    whole, resumed = (average_squares(state, gradients[2], 0.9) for state in (second, stored))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_an_average_over_other_parameters_is_refused() -> None:
    import torch

    from guardrail.train.gradient_projection import average_squares

    with pytest.raises(InternalError):
        average_squares([torch.ones(3, 1)], [torch.ones(3)], 0.9)


POSITIVE = st.lists(st.floats(0.0, 1e6, width=32), min_size=SIZE, max_size=SIZE)


@given(VECTOR, POSITIVE, st.floats(1e-3, 10.0), st.floats(1e-3, 10.0))
def test_the_ascent_follows_the_gradient_over_the_damped_relative_fisher_as_far_as_it_is_told(
    g: list[float], f: list[float], length: float, damping: float
) -> None:
    from guardrail.train.gradient_projection import ascent, dot

    assume(sum(f) > 1e-20 and float(np.abs(g).max()) > 1e-30)
    got = ascent(_split(g, "float64"), _split(f, "float64"), length, damping)
    fisher = np.asarray(f)
    direction = np.asarray(g) / (fisher / fisher.mean() + damping)
    assert np.allclose(_joined(got), length * direction / np.linalg.norm(direction), rtol=1e-9, atol=1e-300)
    assert float(np.linalg.norm(_joined(got))) == pytest.approx(length, rel=1e-9)
    assert dot(got, _split(g, "float64")) >= 0.0, "unlearning must not go down the loss"


@given(VECTOR, POSITIVE, st.integers(-10, 10))
def test_the_ascent_does_not_depend_on_the_fishers_scale(g: list[float], f: list[float], exponent: int) -> None:
    from guardrail.train.gradient_projection import ascent

    gradient, fisher = _split(g, "float64"), _split(f, "float64")
    plain = ascent(gradient, fisher, length=0.1, damping=0.5)
    scaled = ascent(gradient, tuple(2.0**exponent * t for t in fisher), length=0.1, damping=0.5)
    assert np.allclose(_joined(scaled), _joined(plain), rtol=1e-12, atol=0.0)


def test_the_ascent_keeps_types_and_is_finite_where_there_is_no_fisher() -> None:
    import torch

    from guardrail.train.gradient_projection import ascent

    gradient = [torch.ones(2).bfloat16(), torch.zeros(3)]
    got = ascent(gradient, [torch.zeros(2), torch.zeros(3)], length=8.0**0.5, damping=0.25)
    assert [t.dtype for t in got] == [torch.bfloat16, torch.float32]
    assert [t.tolist() for t in got] == [[2.0, 2.0], [0.0, 0.0, 0.0]]


def test_there_is_no_ascent_without_a_gradient() -> None:
    import torch

    from guardrail.train.gradient_projection import ascent

    assert ascent([torch.zeros(2)], [torch.zeros(2)], length=1.0, damping=1.0)[0].tolist() == [0.0, 0.0]


def test_the_average_follows_the_gradient_to_its_device() -> None:
    """What a checkpoint gives back lies on the CPU. The meta device stands for any other."""
    import torch

    from guardrail.train.gradient_projection import average_squares

    (average,) = average_squares([torch.ones(2)], [torch.ones(2, device="meta")], decay=0.5)
    assert average.device.type == "meta"


@pytest.mark.parametrize(
    ("fisher", "damping"),
    [(1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (float("nan"), 1.0), (float("inf"), 1.0), (-1.0, 1.0)],
)
def test_an_ascent_that_could_divide_by_nothing_is_refused(fisher: float, damping: float) -> None:
    import torch

    from guardrail.train.gradient_projection import ascent

    with pytest.raises(InternalError):
        ascent([torch.ones(2)], [torch.full((2,), fisher)], length=1.0, damping=damping)
