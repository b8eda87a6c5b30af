"""Distillation against float64 references: right to the last digits, and exactly zero at the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow

Head = Callable[["torch.Tensor"], "torch.Tensor"]


def _problem(
    tokens: int = 37, hidden: int = 16, vocabulary: int = 211
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(11)
    student, teacher = (torch.randn(tokens, hidden, generator=generator) for _ in range(2))
    return student, teacher, torch.randn(vocabulary, hidden, generator=generator)


def _kl(student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor) -> float:
    """The definition, in float64: sum over the vocabulary of p (log p - log q), sum over tokens."""
    p, q = (states.double() @ weight.double().T for states in (teacher, student))
    log_p, log_q = p - p.logsumexp(-1, keepdim=True), q - q.logsumexp(-1, keepdim=True)
    return float((log_p.exp() * (log_p - log_q)).sum())


@pytest.mark.parametrize("chunk", [1, 10, 37, 1024])
def test_kl_equals_its_definition_whatever_the_chunk(chunk: int) -> None:
    from guardrail.train.distillation import kl_divergence

    student, teacher, weight = _problem()
    got = float(kl_divergence(student, teacher, lambda states: states @ weight.T, chunk=chunk))
    assert got == pytest.approx(_kl(student, teacher, weight), rel=1e-6)


def test_kl_has_the_direction_that_its_name_says() -> None:
    from guardrail.train.distillation import kl_divergence

    student, teacher, weight = _problem()
    head: Head = lambda states: states @ weight.T  # noqa: E731
    forward, backward = float(kl_divergence(student, teacher, head)), float(kl_divergence(teacher, student, head))
    assert forward == pytest.approx(_kl(student, teacher, weight), rel=1e-6)
    assert abs(forward - backward) > 0.01 * forward


def test_kl_is_exactly_zero_at_the_teacher_and_so_is_its_gradient() -> None:
    from guardrail.train.distillation import kl_divergence

    student, _, weight = _problem()
    student.requires_grad_()
    loss = kl_divergence(student, student.detach(), lambda states: states @ weight.T)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-6


def test_the_gradient_of_kl_is_that_of_the_definition() -> None:
    import torch

    from guardrail.train.distillation import kl_divergence

    student, teacher, weight = _problem()
    student.requires_grad_()
    kl_divergence(student, teacher, lambda states: states @ weight.T).backward()
    q, p = (torch.softmax(s.detach().double() @ weight.double().T, -1) for s in (student, teacher))
    expected = (q - p) @ weight.double()
    assert student.grad is not None
    assert float((student.grad.double() - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("weight", [1 / 3, 1 / 771, 10 / 37])
def test_in_bfloat16_a_weight_on_the_loss_is_not_rounded(weight: float) -> None:
    """Entries round this way and that, each by up to 0.4%; a rounded weight would move all of them the same way."""
    import torch

    from guardrail.train.distillation import cross_entropy

    student, _, head = _problem(tokens=400)
    tokens = torch.arange(400) % len(head)
    plain, weighted = student.bfloat16().requires_grad_(), student.bfloat16().requires_grad_()
    cross_entropy(plain, tokens, lambda states: states.float() @ head.T).backward()
    (weight * cross_entropy(weighted, tokens, lambda states: states.float() @ head.T)).backward()
    assert plain.grad is not None
    assert weighted.grad is not None
    product = float((plain.grad.double() * weighted.grad.double()).sum() / plain.grad.double().square().sum())
    assert product == pytest.approx(weight, rel=2e-4)


def test_the_squared_distance_equals_that_of_the_logits() -> None:
    from guardrail.train.distillation import gram_matrix, squared_logit_distance

    student, teacher, weight = _problem()
    got = float(squared_logit_distance(student, teacher, gram_matrix(weight)))
    logits = (student.double() - teacher.double()) @ weight.double().T
    assert got == pytest.approx(float(logits.square().sum()), rel=1e-6)


def test_the_squared_distance_is_zero_at_the_teacher() -> None:
    from guardrail.train.distillation import gram_matrix, squared_logit_distance

    student, _, weight = _problem()
    assert float(squared_logit_distance(student, student.clone(), gram_matrix(weight))) == 0.0


@pytest.mark.parametrize("chunk", [1, 50, 211, 16384])
def test_the_gram_matrix_is_that_of_the_head_whatever_the_chunk(chunk: int) -> None:
    import torch

    from guardrail.train.distillation import gram_matrix

    _, _, weight = _problem()
    gram = gram_matrix(weight, scale=0.5, chunk=chunk)
    expected = 0.25 * weight.double().T @ weight.double()
    assert torch.equal(gram, gram.T)
    assert float((gram.double() - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_in_bfloat16_the_arithmetic_is_still_float32() -> None:
    import torch

    from guardrail.train.distillation import gram_matrix, kl_divergence

    student, teacher, weight = (tensor.bfloat16() for tensor in _problem())
    assert gram_matrix(weight).dtype == torch.float32
    loss = kl_divergence(student, teacher, lambda states: states @ weight.T)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(_kl(student, teacher, weight), rel=0.02)


@pytest.mark.parametrize("chunk", [1, 10, 37, 1024])
def test_cross_entropy_equals_its_definition_and_gradient_whatever_the_chunk(chunk: int) -> None:
    import torch

    from guardrail.train.distillation import cross_entropy

    student, _, weight = (tensor.double() for tensor in _problem())
    tokens = torch.arange(student.shape[0]) % weight.shape[0]
    reference = student.clone().requires_grad_()
    logits = reference @ weight.T
    expected = (logits.logsumexp(-1) - logits[torch.arange(len(tokens)), tokens]).sum()
    expected.backward()
    student.requires_grad_()
    loss = cross_entropy(student, tokens, lambda states: states @ weight.T, chunk=chunk)
    (3.0 * loss).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert student.grad is not None
    assert reference.grad is not None
    assert bool(torch.allclose(student.grad, 3.0 * reference.grad, rtol=1e-10, atol=1e-12))


def test_no_chunks_logits_are_kept_for_the_backward_pass() -> None:
    """What is saved is the gradient [tokens, hidden], never anything as wide as the vocabulary."""
    import torch

    from guardrail.train.distillation import kl_divergence

    student, teacher, weight = _problem()
    student.requires_grad_()
    saved: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = kl_divergence(student, teacher, lambda states: states @ weight.T, chunk=10)
    assert (student.shape[0], weight.shape[0]) not in saved
    loss.backward()
    assert student.grad is not None


def test_of_no_tokens_every_loss_is_zero() -> None:
    import torch

    from guardrail.train.distillation import cross_entropy, gram_matrix, kl_divergence, squared_logit_distance

    _, _, weight = _problem()
    none = torch.zeros(0, weight.shape[1], requires_grad=True)
    head: Head = lambda states: states @ weight.T  # noqa: E731
    losses = (
        cross_entropy(none, torch.zeros(0, dtype=torch.long), head),
        kl_divergence(none, none.detach(), head),
        squared_logit_distance(none, none.detach(), gram_matrix(weight)),
    )
    for loss in losses:
        loss.backward()
        assert float(loss.detach()) == 0.0


@pytest.mark.parametrize("kind", ["cohere", "granite"])
def test_the_squared_distance_knows_the_scale_that_some_models_give_their_logits(kind: str) -> None:
    import torch
    import transformers

    from guardrail.model.head import logit_scale, project
    from guardrail.train.distillation import gram_matrix, squared_logit_distance

    common: dict[str, Any] = {
        "vocab_size": 37,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    torch.manual_seed(0)
    model: Any = (
        transformers.CohereForCausalLM(transformers.CohereConfig(**common, logit_scale=0.25))
        if kind == "cohere"
        else transformers.GraniteForCausalLM(transformers.GraniteConfig(**common, logits_scaling=8.0))
    )
    student, teacher = torch.randn(2, 9, 16)
    expected = float((project(model, student) - project(model, teacher)).detach().double().square().sum())
    gram = gram_matrix(model.get_output_embeddings().weight, logit_scale(model))
    assert logit_scale(model) != 1.0
    assert float(squared_logit_distance(student, teacher, gram)) == pytest.approx(expected, rel=1e-5)
