"""Merging weight updates of fine-tuned models of one base: pure mathematics on the updates dW of one matrix.

Every function works on dW [out, in] itself. Combining the factors B and A one by one, as peft's linear, ties and
dare_linear do, adds cross terms B1 A2 that belong to no model. Not covered: which updates, weights and densities to
choose, a global factor on the result (scale what comes out), and matrices whose factors are not known. Half precision
is computed in float32. Sources are named by the functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from guardrail.errors import InvalidInput
from guardrail.model.updates import Update

# The smaller dimension up to which the SVD is exact: half a second on one core there, growing as its cube.
EXACT_SVD_UP_TO = 1024
# Of the randomised SVD beyond (Halko, Martinsson and Tropp, 2011, arXiv 0909.4061).
POWER_ITERATIONS, OVERSAMPLING, SEED = 4, 16, 0
# Below this sine the arc between two directions is straight to 1e-7, or, near pi, has no direction of its own.
SMALLEST_SINE = 1e-3


@dataclass(frozen=True)
class Truncated:
    """The best factors of a lower rank, and what they lose.

    Args:
        update: the factors, a = sqrt(S) V' and b = U sqrt(S), with scale 1.
        rank: their rank, at most the smaller dimension of the matrix.
        relative_error: ||dW - b a|| / ||dW|| in the Frobenius norm; 0 for a matrix of zeros.
    """

    update: Update
    rank: int
    relative_error: float


def linear(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """sum_i w_i dW_i as one update: the factors side by side, without an SVD.

    A is [A_1; A_2; ...] and B is [w_1 s_1 B_1, w_2 s_2 B_2, ...], so ranks add up and the scale is 1.
    Source: task arithmetic (Ilharco et al., 2023, arXiv 2212.04089).

    Args:
        updates: of the same [out, in], of any ranks and scales.
        weights: one for each update, any finite numbers.

    Raises:
        InvalidInput: no updates, other shapes, or not one weight for each.
    """
    _check_shapes([torch.Size((u.b.shape[0], u.a.shape[1])) for u in updates])
    _check_weights(updates, weights)
    dtype = _precision([tensor for u in updates for tensor in (u.a, u.b)])
    a = torch.cat([u.a.to(dtype) for u in updates])
    b = torch.cat([u.b.to(dtype) * (w * u.scale) for u, w in zip(updates, weights, strict=True)], dim=1)
    return Update(a, b, 1.0)


def ties(vectors: Sequence[torch.Tensor], weights: Sequence[float], density: float) -> torch.Tensor:
    """Trim, elect a sign, and average what agrees with it.

    1. Trim: each vector keeps its k = max(1, round(density * size)) entries of largest magnitude and those as large as
       the smallest of them; the rest become 0.
    2. Elect: the sign of each entry is that of sum_i w_i v_i, of trimmed v_i. Where the sum is 0 so is the result.
    3. Merge: sum w_i v_i / sum w_i over the vectors whose trimmed entry has that sign.

    Equal weights give the paper's disjoint mean (there with a factor lambda on the result, here without). The order of
    the vectors matters only to rounding. Source: TIES-Merging (Yadav et al., 2023, arXiv 2306.01708).

    Args:
        vectors: of the same shape.
        weights: one for each, not negative: a negative one has no meaning in a mean.
        density: the share of entries that each vector keeps, in (0, 1].

    Raises:
        InvalidInput: no vectors, other shapes, or weights or density out of range.
    """
    _check_vectors(vectors, weights)
    _check_range("density", density, 0.0 < density <= 1.0, "a share in (0, 1]")
    _check_range("weights", list(weights), all(w >= 0 for w in weights), "numbers that are not negative")
    trimmed = [_trim(vector, density) for vector in _same_precision(vectors)]
    elected = _weighted_sum(trimmed, weights).sign()
    agreeing = [vector.sign() == elected for vector in trimmed]
    total = _weighted_sum([v * agrees for v, agrees in zip(trimmed, agreeing, strict=True)], weights)
    share = _weighted_sum([agrees.to(total.dtype) for agrees in agreeing], weights)
    return torch.where((elected != 0) & (share > 0), total / share, 0.0)


def dare(
    vectors: Sequence[torch.Tensor], weights: Sequence[float], drop: float, generator: torch.Generator
) -> torch.Tensor:
    """sum_i w_i m_i v_i / (1 - drop): entries dropped at random, the others rescaled; its mean is sum_i w_i v_i.

    The masks m_i are independent draws from ``generator``, one for each vector in order; drop = 0 draws too and is
    exactly the weighted sum. Source: DARE (Yu et al., 2023, arXiv 2311.03099).

    Args:
        vectors: of the same shape.
        weights: one for each, any finite numbers.
        drop: the probability that an entry is dropped, in [0, 1).
        generator: decides every draw.

    Raises:
        InvalidInput: no vectors, other shapes, or weights or drop out of range.
    """
    _check_vectors(vectors, weights)
    _check_range("drop", drop, 0.0 <= drop < 1.0, "a probability in [0, 1)")
    kept = [vector * _mask(vector, drop, generator) / (1.0 - drop) for vector in _same_precision(vectors)]
    return _weighted_sum(kept, weights)


def slerp(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    """From ``first`` (t = 0) to ``second`` (t = 1) along the arc between their directions.

    Of the flattened matrices, with unit directions u and angle omega: the direction is
    [sin((1 - t) omega) u_1 + sin(t omega) u_2] / sin(omega), the norm (1 - t) ||first|| + t ||second||. Where
    sin(omega) < ``SMALLEST_SINE`` (nearly the same or opposite directions) or a matrix is zero there is no arc to
    follow and it is (1 - t) first + t second, whose norm may be smaller. Source: Shoemake, 1985 (SIGGRAPH).

    Raises:
        InvalidInput: other shapes, or t outside [0, 1].
    """
    _check_shapes([first.shape, second.shape])
    _check_range("t", t, 0.0 <= t <= 1.0, "a share in [0, 1]")
    first, second = _same_precision([first, second])
    norms = _norm(first), _norm(second)
    angle = _angle(first / norms[0], second / norms[1]) if min(norms) > 0 else 0.0
    if t in (0.0, 1.0) or math.sin(angle) < SMALLEST_SINE:
        return torch.lerp(first, second, t)
    norm = ((1 - t) * norms[0] + t * norms[1]) / math.sin(angle)
    return first * (math.sin((1 - t) * angle) * norm / norms[0]) + second * (math.sin(t * angle) * norm / norms[1])


def magmax(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """In every entry the value of largest magnitude; of a value and its opposite the positive one.

    The paper scales the result by a factor (0.5 in its experiments), here left to the caller. The order of the vectors
    does not matter. Source: MagMax (Marczak et al., 2024, arXiv 2407.06322).

    Raises:
        InvalidInput: other shapes, or fewer than two vectors.
    """
    if len(vectors) < 2:
        raise InvalidInput(
            f"magmax of {len(vectors)} update(s)",
            expected="at least two updates to choose between",
            next_step="give more adapters; on one, scaling it is the method wise_ft",
        )
    _check_shapes([vector.shape for vector in vectors])
    result, *others = _same_precision(vectors)
    for other in others:
        larger = (other.abs() > result.abs()) | ((other.abs() == result.abs()) & (other > result))
        result = torch.where(larger, other, result)
    return result


def truncate(dense: torch.Tensor, rank: int) -> Truncated:
    """The factors of rank ``rank`` nearest to ``dense`` [out, in] in the Frobenius norm (Eckart and Young, 1936).

    Singular values are split evenly between A and B, so that both have the same norm. The SVD is exact where the
    smaller dimension is at most ``EXACT_SVD_UP_TO``; beyond, where that would take up to a minute a matrix, it is
    ``torch.svd_lowrank`` with ``POWER_ITERATIONS`` and ``OVERSAMPLING`` from the fixed ``SEED``, whose error is near
    the smallest but not it. The error reported is measured on the result in both cases.

    Raises:
        InvalidInput: not a matrix, not finite, or a rank below 1.
    """
    _check_range("shape", list(dense.shape), dense.ndim == 2 and dense.numel() > 0, "[out, in]")
    _check_range("rank", rank, rank >= 1, "a whole number from 1")
    _check_range("values", "nan or infinity", bool(dense.isfinite().all()), "finite numbers")
    dense = dense.to(_precision([dense]))
    rank = min(rank, *dense.shape)
    update = _factors(dense, rank)
    norm = _norm(dense)
    return Truncated(update, rank, _norm(dense - update.dense) / norm if norm > 0 else 0.0)


def _factors(dense: torch.Tensor, rank: int) -> Update:
    if min(dense.shape) <= EXACT_SVD_UP_TO:
        u, s, vt = torch.linalg.svd(dense, full_matrices=False)
        v = vt.T
    else:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(SEED)
            u, s, v = torch.svd_lowrank(dense, q=min(rank + OVERSAMPLING, *dense.shape), niter=POWER_ITERATIONS)
    root = s[:rank].sqrt()
    return Update((v[:, :rank] * root).T.contiguous(), (u[:, :rank] * root).contiguous(), 1.0)


def _trim(vector: torch.Tensor, density: float) -> torch.Tensor:
    magnitudes = vector.abs()
    kept = max(1, round(density * vector.numel()))
    threshold = magnitudes.flatten().kthvalue(vector.numel() - kept + 1).values
    return torch.where(magnitudes >= threshold, vector, 0.0)


def _mask(vector: torch.Tensor, drop: float, generator: torch.Generator) -> torch.Tensor:
    """True with probability 1 - drop; drawn where the generator lives, so that draws do not depend on the vector's."""
    draws = torch.rand(vector.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return (draws >= drop).to(vector.device)


def _weighted_sum(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = torch.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total += vector * weight
    return total


def _angle(first: torch.Tensor, second: torch.Tensor) -> float:
    """Between unit vectors, in radians; unlike the arc cosine exact to the last digits near 0 and pi (Kahan)."""
    return 2.0 * math.atan2(_norm(first - second), _norm(first + second))


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _precision(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _same_precision(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    dtype = _precision(tensors)
    return [tensor.to(dtype) for tensor in tensors]


def _check_vectors(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> None:
    _check_shapes([vector.shape for vector in vectors])
    _check_weights(vectors, weights)


def _check_shapes(shapes: Sequence[torch.Size]) -> None:
    if not shapes:
        raise InvalidInput("a merge of no updates", expected="at least one")
    if len(set(shapes)) != 1:
        raise InvalidInput(
            f"updates of shapes {[list(shape) for shape in shapes]}",
            expected="one shape",
            next_step="merge only adapters of the same base and module",
        )


def _check_weights(items: Sequence[object], weights: Sequence[float]) -> None:
    if len(weights) != len(items) or not all(math.isfinite(weight) for weight in weights):
        raise InvalidInput(
            f"weights {list(weights)} for {len(items)} update(s)", expected="one finite number for each update"
        )


def _check_range(name: str, got: object, holds: bool, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"{name} {got}", expected=f"{name}: {expected}")
