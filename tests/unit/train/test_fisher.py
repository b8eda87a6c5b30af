"""The Fisher information against float64 references that loop over rows and differentiate the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from guardrail.errors import InternalError, InvalidInput

if TYPE_CHECKING:
    import torch

    from guardrail.model.chat import Encoded
    from guardrail.model.load import BaseModel
    from guardrail.model.updates import Update

pytestmark = pytest.mark.slow

VOCABULARY = 23
KINDS = ("llama", "qwen2", "gemma2", "gpt2")
SEED = 17


def _model(kind: str) -> Any:
    import torch
    import transformers

    torch.manual_seed(3)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
        return transformers.GPT2LMHeadModel(config)
    if kind == "gemma2":
        # A window that reaches a real token from every position: eager attention makes NaN of the others in float64.
        gemma = transformers.Gemma2Config(**common, head_dim=8, sliding_window=8, query_pre_attn_scalar=8)
        return transformers.Gemma2ForCausalLM(gemma)
    if kind == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common, tie_word_embeddings=False))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))


def _base(kind: str, dtype: str = "float64") -> BaseModel:
    import torch

    from guardrail.model.load import BaseModel

    model = _model(kind).to(getattr(torch, dtype))
    return BaseModel(model, cast("Any", None), cast("Any", None), Path(), torch.device("cpu"))


def _adapted(kind: str, dtype: str = "float64", targets: Sequence[str] = ()) -> tuple[BaseModel, Any]:
    """A tiny base and the same with LoRA of no effect, both in training mode."""
    import torch

    from guardrail.model.adapter import add_lora

    base = _base(kind, dtype)
    model = add_lora(base, rank=2, alpha=6.0, dropout=0.3, targets=targets).to(getattr(torch, dtype))
    return base, model.train()


def _rows() -> list[Encoded]:
    """Five rows of five lengths."""
    from guardrail.model.chat import Encoded

    return [
        Encoded((1, 5, 2), (7, 3)),
        Encoded((4,), (9, 9, 1, 2, 0)),
        Encoded((2, 8, 6, 3, 3, 1), (5,)),
        Encoded((6, 1), (2, 2, 11, 4, 20, 13, 0)),
        Encoded((3, 2, 1, 4, 4), (22, 8, 0)),
    ]


def _fisher(base: BaseModel, model: Any, rows: Sequence[Encoded], batch_size: int = 8, seed: int = SEED) -> Any:
    import torch

    from guardrail.train.fisher import diagonal_fisher

    generator = torch.Generator().manual_seed(seed)
    return diagonal_fisher(base, model, rows, generator=generator, batch_size=batch_size)


def _row_gradients(model: Any, rows: Sequence[Encoded]) -> Iterator[dict[str, torch.Tensor]]:
    """For each row, alone and unpadded: the gradient of -log p(y | x) with respect to W itself, y drawn as promised."""
    import numpy as np
    import torch

    weights = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if name.endswith(".base_layer")
    }
    draws = torch.rand(
        sum(len(row.answer) for row in rows), generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
    ).tolist()
    for row in rows:
        logits = model.eval()(input_ids=torch.tensor([[*row.prompt, *row.answer]])).logits[0]
        loss = torch.zeros((), dtype=torch.float64)
        for at in range(len(row.prompt) - 1, len(row) - 1):
            log_p = logits[at] - logits[at].logsumexp(-1)
            cumulated = np.cumsum(log_p.detach().exp().numpy())
            loss = loss - log_p[int(np.searchsorted(cumulated, draws.pop(0), side="right"))]
        gradients = torch.autograd.grad(loss, [module.weight for module in weights.values()])
        yield {
            name: gradient.T if type(module).__name__ == "Conv1D" else gradient
            for (name, module), gradient in zip(weights.items(), gradients, strict=True)
        }


def _gradients(model: Any, rows: Sequence[Encoded]) -> list[dict[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" not in name)
    return list(_row_gradients(model, rows))


def _error(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest relative error of a matrix, in its largest entry."""
    assert set(got) == set(expected)
    return max(float((got[name] - value).abs().max() / value.abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_over_rows_of_the_squared_gradient_of_the_weight_itself(kind: str) -> None:
    base, model = _adapted(kind)
    got = _fisher(base, model, _rows(), batch_size=3)
    gradients = _gradients(model, _rows())
    expected = {name: sum(row[name].square() for row in gradients) / len(gradients) for name in gradients[0]}
    assert _error(got, cast("Any", expected)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_not_the_square_of_the_batchs_mean_gradient(kind: str) -> None:
    base, model = _adapted(kind)
    got = _fisher(base, model, _rows())
    gradients = _gradients(model, _rows())
    mistaken = {name: (sum(row[name] for row in gradients) / len(gradients)) ** 2 for name in gradients[0]}
    assert all(float((got[name] - mistaken[name]).norm() / got[name].norm()) > 0.2 for name in got)


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapted_matrix_has_some_although_lora_a_has_none(kind: str) -> None:
    import torch

    base, model = _adapted(kind, "float32")
    got = _fisher(base, model, _rows())
    names = {name for name, module in base.model.named_modules() if hasattr(module, "lora_A")}
    assert set(got) == names
    assert len(names) == (8 if kind == "gpt2" else 14)
    assert all(value.dtype == torch.float32 and float(value.sum()) > 0 for value in got.values())
    model(input_ids=torch.tensor([[1, 5, 2, 7]])).logits.square().sum().backward()
    assert all(float(p.grad.abs().max()) == 0.0 for name, p in model.named_parameters() if "lora_A" in name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [2, 3, 5, 100])
def test_neither_the_batch_size_nor_padding_changes_it(kind: str, batch_size: int) -> None:
    base, model = _adapted(kind)
    alone = _fisher(base, model, _rows(), batch_size=1)
    assert _error(_fisher(base, model, _rows(), batch_size=batch_size), alone) < 1e-9


def test_a_matrix_larger_than_the_memory_bound_is_taken_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.train import fisher

    base, model = _adapted("llama")
    whole = _fisher(base, model, _rows())
    monkeypatch.setattr(fisher, "ENTRIES", 1)
    assert _error(_fisher(base, model, _rows()), whole) < 1e-12


def test_with_many_draws_it_is_the_expectation_over_the_models_own_predictions() -> None:
    import torch

    from guardrail.model.chat import Encoded

    base, model = _adapted("llama", targets=("down_proj",))
    row = Encoded((1, 5, 2), (7,))
    got = _fisher(base, model, [row] * 4000, batch_size=1000)
    layer: Any = base.model.get_submodule("model.layers.1.mlp.down_proj")
    weight = layer.base_layer.weight.requires_grad_()
    log_p = torch.log_softmax(model.eval()(input_ids=torch.tensor([row.prompt])).logits[0, -1], -1)
    exact = torch.stack(
        [
            p * torch.autograd.grad(log_p[v], weight, retain_graph=True)[0].square()
            for v, p in enumerate(log_p.detach().exp())
        ]
    ).sum(0)
    error = (got["model.layers.1.mlp.down_proj"] - exact).norm() / exact.norm()
    assert float(error) < 0.1


def test_the_answers_own_tokens_are_no_labels() -> None:
    """The last answer token is never read: an empirical Fisher would change with it."""
    from guardrail.model.chat import Encoded

    base, model = _adapted("llama")
    one, other = (_fisher(base, model, [Encoded((1, 5, 2), (7, last))]) for last in (3, 19))
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_the_generator_decides_and_nothing_else_random_does() -> None:
    base, model = _adapted("llama")
    first, again, other = (_fisher(base, model, _rows(), seed=seed) for seed in (1, 1, 2))
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert _error(other, first) > 1e-3


def test_nothing_is_left_behind() -> None:
    base, model = _adapted("llama")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    trainable = [name for name, parameter in base.model.named_parameters() if parameter.requires_grad]
    _fisher(base, model, _rows())
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert [name for name, parameter in base.model.named_parameters() if parameter.requires_grad] == trainable
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(bool((before[name] == value).all()) for name, value in base.model.state_dict().items())
    assert all(module.training for module in base.model.modules())


def test_a_caller_without_gradients_and_frozen_adapters_do_not_matter() -> None:
    import torch

    base, model = _adapted("llama")
    expected = _fisher(base, model, _rows())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        got = _fisher(base, model, _rows())
    assert _error(got, expected) < 1e-12


def test_names_do_not_depend_on_the_wrapper() -> None:
    from guardrail.train.fisher import lora_updates

    base, model = _adapted("qwen2")
    names = {name: tuple(value.shape) for name, value in _fisher(base, model, _rows()).items()}
    assert {name: tuple(value.shape) for name, value in _fisher(base, base.model, _rows()).items()} == names
    for given in (model, base.model):
        assert {name: tuple(update.dense.shape) for name, update in lora_updates(given).items()} == names


def test_no_rows_are_refused() -> None:
    base, model = _adapted("llama")
    with pytest.raises(InvalidInput, match="no rows"):
        _fisher(base, model, [])


def test_a_base_without_lora_is_a_bug() -> None:
    from guardrail.train.fisher import lora_updates

    base = _base("llama")
    with pytest.raises(InternalError, match="no LoRA layers"):
        _fisher(base, base.model, _rows())
    with pytest.raises(InternalError, match="no LoRA layers"):
        lora_updates(base.model)


@pytest.mark.parametrize(("target", "options"), [("embed_tokens", {}), ("q_proj", {"use_dora": True})])
def test_an_adapter_that_is_no_plain_lora_is_refused_by_name(target: str, options: dict[str, bool]) -> None:
    from peft import LoraConfig, get_peft_model

    from guardrail.train.fisher import lora_updates

    model = get_peft_model(_base("llama").model, LoraConfig(r=2, target_modules=[target], **options))
    with pytest.raises(InvalidInput, match=target):
        lora_updates(model)


def test_a_layer_without_a_row_dimension_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.model import adapter

    monkeypatch.setattr(adapter, "_check_targets", lambda *_: None)  # which refuses the head, such a layer
    base, model = _adapted("llama", targets=("lm_head",))
    with pytest.raises(InvalidInput, match="lm_head"):
        _fisher(base, model, _rows())
    assert not any(module._forward_hooks for module in base.model.modules())


def test_a_layer_that_is_called_twice_is_refused_by_name() -> None:
    base, model = _adapted("llama")
    decoder: Any = base.model.get_decoder()
    decoder.layers[1] = decoder.layers[0]
    with pytest.raises(InvalidInput, match="twice"):
        _fisher(base, model, _rows())


def test_labels_are_drawn_in_the_proportions_of_the_predictions() -> None:
    import torch

    from guardrail.train.fisher import draw_labels

    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2))
    logits[[0, 4, VOCABULARY - 1]] = -torch.inf
    count = 10_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    labels = draw_labels(logits.expand(count, -1), uniform)
    counts = torch.bincount(labels, minlength=VOCABULARY)
    assert float((counts - count * torch.softmax(logits.double(), -1)).abs().max()) <= 1.0
    assert counts[[0, 4, VOCABULARY - 1]].tolist() == [0, 0, 0]
    ends = draw_labels(logits.expand(2, -1), torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64))
    assert ends.tolist() == [1, VOCABULARY - 2]


def _matrices(seed: int = 5) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(3, columns, generator=generator, dtype=torch.float64)
        for name, columns in (("up", 4), ("down", 7))
    }


def test_relative_has_mean_one_over_all_entries_and_keeps_the_proportions() -> None:
    import torch

    from guardrail.train.fisher import relative

    fisher = {name: value.square() for name, value in _matrices().items()}
    got = relative({name: value.clone() for name, value in fisher.items()})
    assert float(torch.cat([value.flatten() for value in got.values()]).mean()) == pytest.approx(1.0, rel=1e-12)
    ratio = float(got["up"][0, 0] / fisher["up"][0, 0])
    assert all(float((got[name] - ratio * fisher[name]).abs().max()) < 1e-12 for name in fisher)


def test_relative_has_no_scale() -> None:
    from guardrail.train.fisher import relative

    fisher = {name: value.square() for name, value in _matrices().items()}
    small = relative({name: 1e-9 * value for name, value in fisher.items()})
    assert _error(small, relative(fisher)) < 1e-12


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_relative_refuses_a_matrix_that_protects_nothing_and_names_it(bad: float) -> None:
    import torch

    from guardrail.train.fisher import relative

    with pytest.raises(InternalError, match="down"):
        relative({"up": torch.ones(2, 3), "down": torch.full((3, 2), bad)})
    with pytest.raises(InternalError):
        relative({})


def test_relative_takes_no_memory_of_its_own() -> None:
    from guardrail.train.fisher import relative

    fisher = {name: value.square() for name, value in _matrices().items()}
    got = relative(fisher)
    assert all(got[name].data_ptr() == fisher[name].data_ptr() for name in fisher)


def _factors(dtype: str = "float64") -> dict[str, Update]:
    """Trainable factors of rank 2 for the matrices of :func:`_matrices`."""
    import torch

    from guardrail.model.updates import Update

    generator = torch.Generator().manual_seed(8)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(getattr(torch, dtype)).requires_grad_()

    return {name: Update(random(2, value.shape[1]), random(3, 2), 1.5) for name, value in _matrices().items()}


def _autograd(fisher: dict[str, torch.Tensor], updates: dict[str, Update], weight: float) -> tuple[float, list[Any]]:
    """The penalty as it is defined, differentiated by autograd."""
    import torch

    total = sum((fisher[name] * update.dense.double().square()).sum() for name, update in updates.items()) * weight / 2
    factors = [factor for update in updates.values() for factor in (update.a, update.b)]
    return float(cast("Any", total).detach()), list(torch.autograd.grad(cast("Any", total), factors))


def test_the_penalty_is_half_the_weighted_squares_and_its_gradient_is_autograds() -> None:
    from guardrail.train.penalty import quadratic_penalty

    fisher, updates = {name: value.square() for name, value in _matrices().items()}, _factors()
    expected, gradients = _autograd(fisher, updates, 0.7)
    penalty = quadratic_penalty(fisher, updates)
    for part in (0.25, 0.75):  # as micro-batches do
        (0.7 * part * penalty.differentiable()).backward()
    assert 0.7 * float(penalty.value) == pytest.approx(expected, rel=1e-12)
    factors = [factor for update in updates.values() for factor in (update.a, update.b)]
    for factor, gradient in zip(factors, gradients, strict=True):
        assert factor.grad is not None
        assert float((factor.grad - gradient).norm() / gradient.norm()) < 1e-10


def test_the_penalty_of_factors_in_half_precision_is_computed_in_the_fishers() -> None:
    import torch

    from guardrail.train.penalty import quadratic_penalty

    fisher = {name: value.square().float() for name, value in _matrices().items()}
    updates = _factors("bfloat16")
    expected, gradients = _autograd(fisher, updates, 1.0)
    penalty = quadratic_penalty(fisher, updates)
    assert penalty.value.dtype == torch.float32
    assert float(penalty.value) == pytest.approx(expected, rel=1e-5)
    for got, gradient in zip(penalty.gradients, gradients, strict=True):
        assert float((got.double() - gradient.double()).norm() / gradient.double().norm()) < 2**-8


def test_the_penalty_keeps_nothing_of_a_matrixs_size() -> None:
    import torch

    from guardrail.train.penalty import quadratic_penalty

    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        penalty = quadratic_penalty({name: value.square() for name, value in _matrices().items()}, _factors())
        penalty.differentiable()
    assert kept == []
    assert [tuple(gradient.shape) for gradient in penalty.gradients] == [(2, 4), (3, 2), (2, 7), (3, 2)]


@pytest.mark.parametrize("change", [{"up": 1}, {}, {"up": 3, "down": 7, "gate": 2}])
def test_the_penalty_refuses_updates_that_do_not_fit(change: dict[str, int]) -> None:
    import torch

    from guardrail.model.updates import Update
    from guardrail.train.penalty import quadratic_penalty

    with pytest.raises(InternalError):
        quadratic_penalty(
            _matrices(),
            {name: Update(torch.zeros(1, columns), torch.zeros(3, 1), 1.0) for name, columns in change.items()},
        )
    with pytest.raises(InternalError):
        quadratic_penalty({}, {})


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_zero_where_lora_has_no_effect_and_pulls_back_from_elsewhere(kind: str) -> None:
    import torch

    from guardrail.train.fisher import lora_updates, relative
    from guardrail.train.penalty import quadratic_penalty

    base, model = _adapted(kind)
    fisher = relative(_fisher(base, model, _rows()))
    assert float(quadratic_penalty(fisher, lora_updates(model)).value) == 0.0
    b = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    for parameter in b.values():
        torch.nn.init.normal_(parameter, std=0.1)
    penalty = quadratic_penalty(fisher, lora_updates(model)).differentiable()
    penalty.backward()
    assert float(penalty.detach()) > 0.0
    for parameter in b.values():
        assert parameter.grad is not None
        assert float((parameter.grad * parameter.detach()).sum()) > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_what_the_adapter_adds_to_the_weight(kind: str) -> None:
    import torch

    from guardrail.train.fisher import lora_updates

    _, model = _adapted(kind)
    model.eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    for name, update in lora_updates(model).items():
        layer = model.base_model.model.get_submodule(name)
        x = torch.randn(2, 3, update.a.shape[1], dtype=torch.float64)
        assert torch.allclose(layer(x) - layer.base_layer(x), x @ update.dense.T, rtol=1e-9, atol=1e-9)
