"""Losses over answer tokens from *final hidden states*: pure mathematics that never holds a whole [tokens, vocabulary].

With a frozen head the hidden state decides the logits, and it is smaller by vocabulary / hidden size. Every function
returns the *sum* over its tokens; who knows how many tokens an optimiser step has (over micro-batches and processes)
divides. Sources: Dark Experience Replay (Buzzega et al., 2020), which takes the squared distance of logits; knowledge
distillation (Hinton et al., 2015), which takes the KL divergence; computing the gradient with the loss, chunk by
chunk, after Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv 2410.10989).

Not covered: heads that are trained (the gradient of the head's weights is not computed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

Project = Callable[[torch.Tensor], torch.Tensor]
ChunkLoss = Callable[[torch.Tensor, slice], torch.Tensor]
CHUNK = 1024


def cross_entropy(states: torch.Tensor, tokens: torch.Tensor, project: Project, chunk: int = CHUNK) -> torch.Tensor:
    """Sum over tokens of -log p(token), in nats.

    Args:
        states: [tokens, hidden], with gradient.
        tokens: [tokens], the right answers.
        project: hidden states to logits [tokens, vocabulary].
        chunk: tokens projected at a time, which bounds the memory at chunk x vocabulary.
    """
    return summed(states, lambda s, at: F.cross_entropy(wide(project(s)), tokens[at], reduction="sum"), chunk)


def kl_divergence(student: torch.Tensor, teacher: torch.Tensor, project: Project, chunk: int = CHUNK) -> torch.Tensor:
    """Sum over tokens of KL(teacher || student), in nats; zero exactly where both states are the same.

    Rounding may take a tiny one below zero: -5e-10 in float32 where user and replay rows share a forward pass, whose
    padding gives the student other last digits than the teacher had.

    Args:
        student: [tokens, hidden], with gradient.
        teacher: [tokens, hidden], without.
        project: hidden states to logits [tokens, vocabulary].
        chunk: tokens projected at a time.
    """

    def loss(states: torch.Tensor, at: slice) -> torch.Tensor:
        target = F.log_softmax(wide(project(teacher[at].to(states.dtype))), dim=-1)
        return F.kl_div(F.log_softmax(wide(project(states)), dim=-1), target, reduction="sum", log_target=True)

    return summed(student, loss, chunk)


def squared_logit_distance(student: torch.Tensor, teacher: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of the squared distance of logits, summed over the vocabulary, without computing a logit.

    ||W(h - h_t)||^2 = (h - h_t)' G (h - h_t) with G = W'W. A bias of the head cancels. Not valid where logits are
    soft-capped, nor for a trained head.

    Args:
        student, teacher: [tokens, hidden].
        gram: [hidden, hidden], float32, from :func:`gram_matrix`.
    """
    difference = student.to(gram.dtype) - teacher.to(gram.dtype)
    return ((difference @ gram) * difference).sum()


def gram_matrix(weight: torch.Tensor, scale: float = 1.0, chunk: int = 16384) -> torch.Tensor:
    """G = s^2 W'W of a head ``weight`` [vocabulary, hidden], accumulated in float32 (or better) over chunks."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gram = weight.new_zeros((weight.shape[1], weight.shape[1]), dtype=dtype)
    for rows in weight.detach().split(chunk):
        gram += rows.to(dtype).T @ rows.to(dtype)
    return gram * scale**2


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: sums over a vocabulary or a hidden size lose too much in bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _Summed(torch.autograd.Function):
    """A sum over chunks whose gradient is computed with it: no chunk's logits outlive the chunk."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, loss: ChunkLoss, chunk: int) -> torch.Tensor:
        gradient = torch.empty_like(states) if states.requires_grad else None
        total = states.new_zeros((), dtype=torch.promote_types(states.dtype, torch.float32))
        for start in range(0, states.shape[0], chunk):
            at = slice(start, start + chunk)
            with torch.enable_grad():
                part = states[at].detach().requires_grad_(gradient is not None)
                value = loss(part, at)
            if gradient is not None:
                gradient[at] = torch.autograd.grad(value, part)[0]
            total = total + value.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, output: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors  # a weight rounded to bfloat16 first would be off by up to 0.4%, always alike
        return (None if gradient is None else (wide(gradient) * output).to(gradient.dtype)), None, None


def summed(states: torch.Tensor, loss: ChunkLoss, chunk: int = CHUNK) -> torch.Tensor:
    """Sum over chunks of ``loss(states of the chunk, its slice)``; no chunk's logits are kept for the backward pass."""
    total: torch.Tensor = _Summed.apply(states, loss, chunk)  # type: ignore[no-untyped-call]
    return total
