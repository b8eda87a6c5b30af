"""Distances between a teacher's and a student's predictions: pure mathematics on tensors.

Both take *final hidden states*, not logits: with a frozen head the hidden state decides the logits, and it is smaller
by vocabulary / hidden size. Sources: Dark Experience Replay (Buzzega et al., 2020), which takes the squared distance of
logits; knowledge distillation (Hinton et al., 2015), which takes the KL divergence.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812

Project = Callable[[torch.Tensor], torch.Tensor]


def kl_divergence(student: torch.Tensor, teacher: torch.Tensor, project: Project, chunk: int = 1024) -> torch.Tensor:
    """Mean over tokens of KL(teacher || student), in nats; zero exactly where both agree.

    Args:
        student: [tokens, hidden], with gradient.
        teacher: [tokens, hidden], without.
        project: hidden states to logits [tokens, vocabulary].
        chunk: tokens projected at a time, which bounds the memory at chunk x vocabulary.
    """
    total = student.new_zeros((), dtype=torch.float32)
    for s, t in zip(student.split(chunk), teacher.split(chunk), strict=True):
        target = F.log_softmax(project(t).float(), dim=-1)
        total = total + F.kl_div(F.log_softmax(project(s).float(), dim=-1), target, reduction="sum", log_target=True)
    return total / max(1, student.shape[0])


def squared_logit_distance(student: torch.Tensor, teacher: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of the squared distance of logits, *summed* over the vocabulary, without computing a logit.

    ||W(h - h_t)||^2 = (h - h_t)' G (h - h_t) with G = W'W. A bias of the head cancels. Not valid where logits are
    soft-capped, nor for a trained head.

    Args:
        student, teacher: [tokens, hidden].
        gram: [hidden, hidden], float32, from :func:`gram_matrix`.
    """
    difference = (student - teacher).float()
    return torch.einsum("th,hk,tk->", difference, gram, difference) / max(1, student.shape[0])


def gram_matrix(weight: torch.Tensor, scale: float = 1.0, chunk: int = 16384) -> torch.Tensor:
    """G = s^2 W'W of a head ``weight`` [vocabulary, hidden], accumulated in float32 over chunks of the vocabulary."""
    gram = weight.new_zeros((weight.shape[1], weight.shape[1]), dtype=torch.float32)
    for rows in weight.detach().split(chunk):
        gram += rows.float().T @ rows.float()
    return gram * scale**2
