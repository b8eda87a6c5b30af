"""Sharding: which layers of a base it takes, and when. What it does with them needs processes: test_processes.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_models import ARCHITECTURES, write_base

from guardrail.errors import InvalidInput
from guardrail.train import processes

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of two processes that the launcher started with --use_fsdp."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(processes.LAUNCHED, "true")
    monkeypatch.setenv(processes.SHARDS, "")


@pytest.mark.usefixtures("launched")
def test_the_launchers_word_is_taken_over_and_kept_from_accelerate() -> None:
    assert processes.shards()
    assert processes.LAUNCHED not in os.environ
    assert processes.shards(), "asked again"


@pytest.mark.usefixtures("launched")
def test_one_process_has_nothing_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not processes.shards()
    assert processes.LAUNCHED not in os.environ


def test_without_the_launchers_word_nothing_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(processes.LAUNCHED, raising=False)
    monkeypatch.delenv(processes.SHARDS, raising=False)
    assert not processes.shards()


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("option", "instead"),
    [("FSDP_OFFLOAD_PARAMS", "--fsdp_offload_params"), ("FSDP_ACTIVATION_CHECKPOINTING", "--gradient-checkpointing")],
)
def test_what_is_not_supported_is_refused_with_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, option: str, instead: str
) -> None:
    monkeypatch.setenv(option, "true")
    with pytest.raises(InvalidInput, match=option) as caught:
        processes.shards()
    assert instead in caught.value.next_step


@pytest.fixture(params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> BaseModel:
    from guardrail.model.load import load_base

    return load_base(write_base(str(request.param), tmp_path / "base"))


@pytest.mark.slow
def test_every_layer_is_found_and_neither_embeddings_nor_head(base: BaseModel) -> None:
    from guardrail.model.adapter import add_lora
    from guardrail.train.sharding import find_layers

    add_lora(base, rank=2, alpha=2.0, dropout=0.0)
    places = find_layers(base.model)
    assert [place.index for place in places] == [0, 1]
    mine = {id(parameter) for place in places for parameter in place.whole.parameters()}
    whole = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    assert not mine & {id(parameter) for module in whole for parameter in module.parameters()}


def _llama() -> Any:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config).requires_grad_(False)


@pytest.mark.slow
def test_layers_that_share_weights_are_refused() -> None:
    from guardrail.train.sharding import find_layers

    model = _llama()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(InvalidInput, match="shares weights between its layers") as caught:
        find_layers(model)
    assert "--use_fsdp" in caught.value.next_step


@pytest.mark.slow
def test_a_base_without_a_list_of_layers_is_refused() -> None:
    import torch

    from guardrail.train.sharding import find_layers

    model = _llama()
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(InvalidInput, match="has no list of layers"):
        find_layers(model)


@pytest.mark.slow
def test_without_the_launchers_word_a_base_is_left_as_it_is(base: BaseModel) -> None:
    from guardrail.train.sharding import find_layers, sharded
    from guardrail.train.student import Student

    before = [id(place.whole) for place in find_layers(base.model)]
    with sharded(base, Student(base.model)):
        assert [id(place.whole) for place in find_layers(base.model)] == before
