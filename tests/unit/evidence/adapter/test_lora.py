"""The door for adapters: every trick that is known is refused by name, whatever is added is too, honest ones pass."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from adapter_tricks import CONFIG, FILES, TRICKS, WEIGHTS, A, B, Trick
from hypothesis import given
from hypothesis import strategies as st
from registry_bundles import adapter_directory
from safetensors.numpy import save_file

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.finite_values import CHUNK
from guardrail.evidence.adapter.lora import read_adapter, read_lora
from guardrail.evidence.adapter.lora_settings import SETTINGS, exactly, plain_name

SHAPES = {"A": (4, 6), "B": (5, 4)}


@pytest.mark.parametrize("trick", [*TRICKS, *FILES], ids=lambda trick: trick.name)
def test_an_adapter_that_is_not_what_it_was_measured_as_is_refused(trick: Trick, tmp_path: Path) -> None:
    directory = adapter_directory(tmp_path / "a")
    read_adapter(directory)
    trick.change(directory)
    with pytest.raises(EvidenceInvalid, match=f"(?s){trick.answer}") as caught:
        read_adapter(directory)
    assert caught.value.got
    assert caught.value.expected


def test_a_hundred_tricks_have_names_of_their_own() -> None:
    names = [trick.name for trick in (*TRICKS, *FILES)]
    assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"use_rslora": True},
        {"lora_dropout": 0.05, "inference_mode": True, "task_type": "CAUSAL_LM"},
        {"lora_alpha": -0.5},
        {"lora_alpha": 0},
        {"init_lora_weights": "gaussian"},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["self_attn.q_proj", "q_proj"]},
        {"rank_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 4}, "r": 16},
        {"alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 0.25}},
        {key: None for key, setting in SETTINGS.items() if setting.fits(None)},
    ],
)
def test_a_plain_adapter_passes_as_peft_and_guardrail_write_it(values: dict[str, Any], tmp_path: Path) -> None:
    directory = adapter_directory(tmp_path / "a")
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(config | values))
    layer = read_adapter(directory).layers["model.layers.0.self_attn.q_proj"]
    assert (layer.rank, layer.inputs, layer.outputs) == (4, 4, 4)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 6}}, 1.5),
    ],
)
def test_the_scale_is_the_one_that_the_settings_give(values: dict[str, Any], scale: float, tmp_path: Path) -> None:
    directory = adapter_directory(tmp_path / "a")
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps(config | values))
    assert read_lora(directory).layers["model.layers.0.self_attn.q_proj"].scale == scale


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("place", [0, CHUNK // 4 - 1, CHUNK // 4, CHUNK // 2 + 3, -1])
def test_one_value_that_is_not_finite_is_found_in_every_chunk(dtype: Any, place: int, tmp_path: Path) -> None:
    directory = adapter_directory(tmp_path / "a")
    wide = np.zeros((4, CHUNK // 4 + 5), dtype)
    tensors = {A: wide, B: np.ones((4, 4), dtype)}
    save_file(tensors, directory / WEIGHTS)
    read_lora(directory)
    wide.reshape(-1)[place] = np.inf
    save_file(tensors, directory / WEIGHTS)
    with pytest.raises(EvidenceInvalid, match=r"lora_A\.weight'.* not finite"):
        read_lora(directory)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.text(max_size=20), value=json_values)
def test_a_key_that_is_not_in_the_list_is_refused_whatever_it_says(key: str, value: object) -> None:
    if key in SETTINGS:
        return
    with TemporaryDirectory() as folder:
        directory = adapter_directory(Path(folder) / "a")
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps(config | {key: value}))
        with pytest.raises(EvidenceInvalid, match="says"):
            read_lora(directory)


@given(key=st.sampled_from(sorted(SETTINGS)), value=json_values)
def test_a_value_passes_only_if_it_leaves_the_adapter_what_it_was(key: str, value: object) -> None:
    """Whatever a known key says: refused, or the same layers, and the scale that r and lora_alpha give."""
    with TemporaryDirectory() as folder:
        directory = adapter_directory(Path(folder) / "a")
        config = json.loads((directory / CONFIG).read_text()) | {key: value}
        (directory / CONFIG).write_text(json.dumps(config))
        try:
            layers = read_lora(directory).layers
        except EvidenceInvalid:
            return
        assert [(layer.rank, layer.scale) for layer in layers.values()] == [
            (4, config["lora_alpha"] / (2 if config.get("use_rslora") else 4))
        ]


@given(
    name=st.text(alphabet=st.sampled_from("base_model.layers0123qlora_ABweight "), max_size=80)
    | st.builds("base_model.model.{}.lora_A.weight".format, st.text(max_size=20)),
    shape=st.lists(st.integers(0, 5), max_size=3),
)
def test_a_tensor_more_is_refused_whatever_its_name_and_shape(name: str, shape: list[int]) -> None:
    if name in (A, B):
        return
    with TemporaryDirectory() as folder:
        directory = adapter_directory(Path(folder) / "a")
        tensors = {A: np.ones((4, 6), np.float32), B: np.ones((5, 4), np.float32), name: np.ones(shape, np.float32)}
        save_file(tensors, directory / WEIGHTS)
        with pytest.raises(EvidenceInvalid):
            read_lora(directory)


@given(a=st.lists(st.integers(0, 6), max_size=4), b=st.lists(st.integers(0, 6), max_size=4))
def test_a_shape_passes_only_if_it_is_that_of_the_rank(a: list[int], b: list[int]) -> None:
    fits = len(a) == len(b) == 2 and a[0] == b[1] == 4 and a[1] > 0 and b[0] > 0
    with TemporaryDirectory() as folder:
        directory = adapter_directory(Path(folder) / "a")
        save_file({A: np.ones(a, np.float32), B: np.ones(b, np.float32)}, directory / WEIGHTS)
        if fits:
            read_lora(directory)
        else:
            with pytest.raises(EvidenceInvalid):
                read_lora(directory)


@given(name=st.text(max_size=12), other=st.text(alphabet="layers.01q_x", max_size=12))
def test_a_pattern_that_passes_matches_no_module_but_its_own(name: str, other: str) -> None:
    import re

    if plain_name(name) and other != name:
        assert re.match(rf"(.*\.)?({exactly(name)})$", name)
        assert not re.match(rf"(.*\.)?({exactly(name)})$", other)
