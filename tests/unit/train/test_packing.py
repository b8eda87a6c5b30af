"""Packing: rows that share a sequence train the adapter that they would have trained apart, or packing is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import CAMPAIGN
from tiny_models import write_base

from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from guardrail.model.load import BaseModel
    from guardrail.records import AdapterRecord

pytestmark = pytest.mark.slow
Trained = tuple[dict[str, "torch.Tensor"], "AdapterRecord"]
Train = Callable[..., Trained]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 64))
def test_every_row_lies_in_one_bin_and_only_a_row_alone_is_longer_than_a_bin(lengths: list[int], limit: int) -> None:
    from guardrail.train.packing import first_fit_decreasing

    bins = first_fit_decreasing(lengths, limit)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == 1 or sum(lengths[row] for row in rows) <= limit for rows in bins)
    assert bins == first_fit_decreasing(list(lengths), limit)


def test_the_longest_rows_come_first_and_each_goes_where_it_fits() -> None:
    from guardrail.train.packing import first_fit_decreasing

    assert first_fit_decreasing([3, 9, 5, 3, 12], 10) == [[4], [1], [2, 0], [3]]


def test_positions_start_again_at_each_row_and_at_what_is_left_of_a_bin() -> None:
    from guardrail.model.chat import Encoded
    from guardrail.train.collate import pad
    from guardrail.train.packing import pack

    rows = [Encoded((1,), (2,)), Encoded((3, 4), (5, 6)), Encoded((7,), (8, 9))]
    packed = pack(pad(rows), 6)
    assert packed.ids.tolist() == [[3, 4, 5, 6, 1, 2], [7, 8, 9, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert packed.reads.tolist() == [4, 1, 2, 6, 7], "in the order of the rows, not of the bins"


def test_bins_are_as_wide_as_the_longest_row_at_least() -> None:
    from guardrail.model.chat import Encoded
    from guardrail.train.collate import pad
    from guardrail.train.packing import pack

    rows = [Encoded((1,), (2,)), Encoded((3, 4), (5, 6)), Encoded((7,), (8,))]
    assert pack(pad(rows), 1).ids.tolist() == [[3, 4, 5, 6], [1, 2, 7, 8]]


@pytest.fixture(params=["testbed", "gpt2", "qwen2", "gemma2"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> BaseModel:
    """Llama, and three random bases; Gemma 2's sliding window is shorter than a row."""
    from guardrail.model.load import load_base
    from guardrail.pipeline.base import base_model

    kind = str(request.param)
    return base_model(kind) if kind == "testbed" else load_base(write_base(kind, tmp_path / "base"))


@pytest.fixture
def train(base: BaseModel, tmp_path: Path) -> Train:
    """Train on 13 rows of very different lengths for two epochs of two steps."""
    from safetensors.torch import load_file

    from guardrail.samples import Message, Sample
    from guardrail.train import stage
    from guardrail.train.trainer import Settings

    texts = [("What is 3 plus 4? " * (1 + number % 4), "It is 7. " * (1 + number % 3)) for number in range(13)]
    rows = [
        Sample(id=str(number), messages=(Message(role="user", content=q), Message(role="assistant", content=a)))
        for number, (q, a) in enumerate(texts)
    ]
    prompts = tuple("How do I paint a school? " * (1 + number % 3) + str(number) for number in range(9))
    usual = Settings(epochs=2.0, batch_size=8, learning_rate=2e-3)

    def call(method: str = "derpp", **settings: Any) -> Trained:
        job = stage.Job(method, {}, replace(usual, **settings), stage.Lora(rank=4, alpha=8.0), prompts, 12)
        record = stage.train(
            base, rows, job, tmp_path / "adapter", stage.Origin(*("0" * 64,) * 4), work=tmp_path / "work"
        )
        return load_file(tmp_path / "adapter" / "adapter_model.safetensors"), record

    return call


def _apart(one: Mapping[Any, torch.Tensor], other: Mapping[Any, torch.Tensor]) -> float:
    """The norm of the difference over the norm."""
    squares = [((one[name] - other[name]).square().sum(), one[name].square().sum()) for name in one]
    return math.sqrt(sum(float(a) for a, _ in squares) / sum(float(b) for _, b in squares))


def test_packed_rows_give_the_gradient_and_the_adapter_of_rows_apart(train: Train) -> None:
    from guardrail.train.methods.derpp import Derpp

    gradients: list[dict[int, torch.Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Derpp, "after_backward", lambda _, backward: gradients.append(dict(enumerate(backward.gradient())))
        )
        apart, record = train()
        packed, again = train(packing=96)
    steps = len(gradients) // 2
    assert steps == 4
    assert max(map(_apart, gradients[:steps], gradients[steps:])) < 1e-4
    assert _apart(apart, packed) < 1e-4
    assert again.tokens == record.tokens, "padding is not counted"
    assert (record.hyperparameters["packing"], again.hyperparameters["packing"]) == (0, 96)


PACKED = (("der", 1e-4), ("agem", 1e-4), ("ewc", 1e-4), ("refresh", 1e-3))


@pytest.mark.parametrize("base", ["testbed"], indirect=True)
@pytest.mark.parametrize(("method", "most"), PACKED if CAMPAIGN else PACKED[:2])
def test_packing_goes_with_micro_batches_two_passes_and_recomputed_activations(
    train: Train, method: str, most: float
) -> None:
    """Refresh divides by squared gradients, which makes rounding errors of any cut larger, packed or not."""
    whole, _ = train(method)
    for cut in ({"accumulation": 4}, {"passes": "separate"}, {"gradient_checkpointing": True}):
        assert _apart(whole, train(method, packing=96, **cut)[0]) < most


@pytest.mark.parametrize("base", ["testbed", "gemma2"], indirect=True)
@pytest.mark.parametrize("limit", [1, 100_000])
def test_bins_may_be_as_narrow_as_the_longest_row_or_hold_all_rows(train: Train, limit: int) -> None:
    assert _apart(train()[0], train(packing=limit)[0]) < 1e-4


@pytest.mark.parametrize("base", ["testbed"], indirect=True)
def test_packing_reads_fewer_positions_than_padding_does(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail.train.student import Student

    read: list[int] = []
    original = Student.forward

    def counted(self: Student, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(ids.numel())
        return original(self, ids, *rest)

    monkeypatch.setattr(Student, "forward", counted)
    _, record = train()
    padded = sum(read)
    read.clear()
    train(packing=96)
    packed = sum(read[2:])  # the first two are the probe's
    assert record.tokens <= packed < 0.9 * padded


@pytest.mark.parametrize("base", ["testbed"], indirect=True)
def test_a_killed_run_resumes_to_the_same_bits(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from guardrail.train.methods.derpp import Derpp

    whole, record = train(packing=96, checkpoint_steps=2)
    original, alive = Derpp.losses, [True]

    def losses(self: Any, step: Any) -> Any:
        if step.index == 3 and alive:
            alive.clear()
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Derpp, "losses", losses)
    with pytest.raises(KeyboardInterrupt):
        train(packing=96, checkpoint_steps=2)
    resumed, again = train(packing=96, checkpoint_steps=2)
    assert again.diagnostics["resumed_at_step"] == 2
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (again.manifest, again.tokens) == (record.manifest, record.tokens)


COMMON: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("Mamba", {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}),
        ("Bloom", {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
        ("Falcon", {**COMMON, "alibi": True}),
        ("Lfm2", {**COMMON, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]}),
    ],
)
def test_a_base_that_does_not_keep_packed_rows_apart_is_refused(kind: str, config: dict[str, Any]) -> None:
    import torch
    import transformers

    from guardrail.train.packing import check_packing

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**config))
    with pytest.raises(InvalidInput, match=f"rows cannot be packed for {kind}ForCausalLM") as caught:
        check_packing(model.eval())
    assert caught.value.next_step == "train without --packing"
    assert not model.training


def test_a_base_that_takes_no_positions_is_refused() -> None:
    import transformers

    from guardrail.train.packing import check_packing

    class Unplaced(transformers.LlamaForCausalLM):
        def get_decoder(self) -> Any:
            def decoder(input_ids: Any, attention_mask: Any = None, use_cache: Any = None) -> Any:
                return self.model(input_ids, attention_mask, use_cache=use_cache)

            return decoder

    model = Unplaced(transformers.LlamaConfig(**COMMON, intermediate_size=64))
    with pytest.raises(InvalidInput, match="position_ids"):
        check_packing(model)


@pytest.mark.parametrize("base", ["testbed"], indirect=True)
def test_a_base_is_refused_before_anything_is_written(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from guardrail.train import packing

    monkeypatch.setattr(packing, "_error", lambda *_: math.nan)
    with pytest.raises(InvalidInput, match="cannot be packed"):
        train(packing=96)
    assert not (tmp_path / "work").exists()
