"""What A-GEM and Refresh do with a step's gradient: pure mathematics on lists of tensors, read as one vector.

A-GEM (Chaudhry et al., 2019, arXiv 1812.00420) takes the part out of a gradient that would raise the replay loss.
Refresh Learning (Wang et al., 2024, arXiv 2403.13249) first unlearns: it moves up the gradient, divided by a diagonal
Fisher information, and learns again from there. Dot products are accumulated in float64.

Not covered: which rows the gradients come from; Refresh's Gaussian noise; how long its move should be; gradients that a
process holds only a part of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from guardrail.errors import InternalError

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Projected:
    """A gradient after A-GEM; ``product`` is the one with the reference *before*, ``violated`` whether it was < 0."""

    gradient: tuple[torch.Tensor, ...]
    violated: bool
    product: float


def agem(gradient: Tensors, reference: Tensors) -> Projected:
    """g - (g.r / r.r) r where g.r < 0; otherwise g itself, bit for bit.

    Args:
        gradient: g, tensors of any shapes.
        reference: r, the gradient on replay rows, of the same shapes.

    Raises:
        InternalError: shapes differ, or a product is not finite.
    """
    product, norm = dot(gradient, reference), dot(reference, reference)
    if not (product < 0.0 < norm):
        return Projected(tuple(gradient), False, product)
    share = product / norm
    kept = tuple((g.double() - share * r.double()).to(g.dtype) for g, r in zip(gradient, reference, strict=True))
    return Projected(kept, True, product)


def raises_loss(update: Tensors, reference: Tensors) -> bool:
    """Whether a change of the parameters raises, to first order, the loss whose gradient is ``reference``.

    Raises:
        InternalError: shapes differ, or the product is not finite.
    """
    return dot(update, reference) > 0.0


def dot(first: Tensors, second: Tensors) -> float:
    """The dot product of two lists of tensors, each read as one vector, accumulated in float64.

    Raises:
        InternalError: shapes differ, or the product is not finite.
    """
    shapes = [[tuple(tensor.shape) for tensor in given] for given in (first, second)]
    if not first or shapes[0] != shapes[1]:
        raise InternalError(f"these gradients have no product: shapes {shapes[0]} and {shapes[1]}")
    terms = [torch.dot(a.double().flatten(), b.double().flatten()) for a, b in zip(first, second, strict=True)]
    product = float(torch.stack(terms).sum())
    if not -float("inf") < product < float("inf"):
        raise InternalError(f"the product of two gradients is {product}", expected="finite gradients")
    return product


def average_squares(average: Tensors, gradient: Tensors, decay: float) -> tuple[torch.Tensor, ...]:
    """decay * average + (1 - decay) * g^2: the diagonal Fisher information that Refresh divides by.

    Start from an empty ``average`` (then g^2 is returned) and hand each result to the next call; the tensors are the
    whole state, and may lie elsewhere than the gradient (one read from a checkpoint is on the CPU). It is empirical and
    made of a batch's mean gradient: cheap, and good only as a preconditioner.
    :mod:`guardrail.train.fisher` has the Fisher information that is one.

    Returns:
        tensors of the gradient's shapes, on its device, float32 (float64 for a float64 gradient).

    Raises:
        InternalError: the average is one of other parameters.
    """
    squares = tuple(g.detach().to(torch.promote_types(g.dtype, torch.float32)).square() for g in gradient)
    if not average:
        return squares
    if [old.shape for old in average] != [new.shape for new in squares]:
        raise InternalError("the average of squared gradients has other shapes than the gradient")
    return tuple(decay * old.to(new.device) + (1.0 - decay) * new for old, new in zip(average, squares, strict=True))


def ascent(gradient: Tensors, fisher: Tensors, length: float, damping: float) -> tuple[torch.Tensor, ...]:
    """The change of the parameters that unlearns: ``length`` * d / ||d|| with d = g / (F_rel + damping).

    F_rel is ``fisher`` divided by its mean over all entries of all tensors, so that ``damping`` has a scale that does
    not depend on the model (ours; the paper divides by F). The norm is that of all tensors as one vector.

    Args:
        gradient: g of the loss to unlearn, tensors of any shapes.
        fisher: of the same shapes, not negative, from :func:`average_squares`; where it is all zero, F_rel is 0.
        length: how far to go, in the parameters' own unit, at least 0.
        damping: above 0.

    Returns:
        tensors of the gradient's shapes and types, to be *added* to the parameters; zeros where the gradient is 0.

    Raises:
        InternalError: shapes differ, damping is not above 0, or the Fisher information is not finite.
    """
    if [g.shape for g in gradient] != [f.shape for f in fisher] or not damping > 0.0:
        raise InternalError(f"no ascent over these shapes, or damping {damping}", expected="equal shapes, damping > 0")
    total = sum(float(f.sum(dtype=torch.float64)) for f in fisher)
    if not 0.0 <= total < float("inf"):
        raise InternalError(f"the Fisher information sums to {total}", expected="a finite sum, not negative")
    scale = sum(f.numel() for f in fisher) / total if total else 0.0
    direction = [g.double() / (f.double() * scale + damping) for g, f in zip(gradient, fisher, strict=True)]
    share = length / (norm(direction) or 1.0)
    return tuple((share * d).to(g.dtype) for d, g in zip(direction, gradient, strict=True))


def norm(tensors: Tensors) -> float:
    """The Euclidean norm of tensors, read as one vector, in float64 and without overflow or underflow of squares."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
