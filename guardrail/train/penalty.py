"""EWC's penalty and its gradient in closed form: computed once, and known to autograd in as many passes as there are.

Autograd keeps dense matrices of every layer for the backward pass, in every micro-batch; this keeps factors alone.
Source of the penalty: Kirkpatrick et al., 2017 (arXiv 1612.00796). Not covered: where the Fisher information comes from
(:mod:`guardrail.train.fisher`), a second derivative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from guardrail.errors import InternalError
from guardrail.model.updates import Update


@dataclass(frozen=True, eq=False)
class Penalty:
    """A value, a scalar, and its gradient with respect to some parameters: computed once, used in many passes.

    Args:
        value: [], without gradient.
        parameters: what it was computed from.
        gradients: of the parameters' shapes.
    """

    value: torch.Tensor
    parameters: tuple[torch.Tensor, ...]
    gradients: tuple[torch.Tensor, ...]

    def differentiable(self) -> torch.Tensor:
        """The value as autograd knows it: its backward pass gives the parameters these gradients."""
        value: torch.Tensor = _Known.apply(self.value, self.gradients, *self.parameters)  # type: ignore[no-untyped-call]
        return value


class _Known(torch.autograd.Function):
    """A number whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gradients: tuple[torch.Tensor, ...], *_: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, *(gradient * output.to(gradient.dtype) for gradient in ctx.gradients))


@torch.no_grad()
def quadratic_penalty(fisher: Mapping[str, torch.Tensor], updates: Mapping[str, Update]) -> Penalty:
    """1/2 sum F dW^2 over all entries of all matrices, and its gradient to the factors of dW = s B A, in closed form.

    With G = F * dW (entry by entry) the gradients are s B' G for A and s G A' for B, and the value is half of A's
    product with its own. One dense matrix exists at a time, and nothing but the factors' gradients outlives the call.

    Args:
        fisher: module name -> [out, in]; it decides the precision.
        updates: the same names -> the factors, from :func:`guardrail.train.fisher.lora_updates`.

    Raises:
        InternalError: names or shapes differ, or there are none.
    """
    shapes = (
        {name: tuple(value.shape) for name, value in fisher.items()},
        {name: (update.b.shape[0], update.a.shape[1]) for name, update in updates.items()},
    )
    if not fisher or shapes[0] != shapes[1]:
        raise InternalError(f"the Fisher information and the updates differ: {shapes[0]} and {shapes[1]}")
    terms, parameters, gradients = [], list[torch.Tensor](), list[torch.Tensor]()
    for name, value in fisher.items():
        update = updates[name]
        a, b = update.a.to(value.dtype), update.b.to(value.dtype)
        weighted = ((update.scale * b) @ a).mul_(value)
        for_a, for_b = (update.scale * b.T) @ weighted, weighted @ (update.scale * a.T)
        terms.append(0.5 * (for_a * a).sum(dtype=torch.float64))
        parameters += [update.a, update.b]
        gradients += [for_a.to(update.a.dtype), for_b.to(update.b.dtype)]
    total = torch.stack(terms).sum().to(torch.promote_types(gradients[0].dtype, torch.float32))
    return Penalty(total, tuple(parameters), tuple(gradients))
