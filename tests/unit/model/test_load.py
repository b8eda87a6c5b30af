"""Loading a base: what the digest covers is all that shapes the model, and a bad base is invalid input, not a bug."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, write_base

from guardrail.errors import InvalidInput
from guardrail.testbed import WEIGHTS

pytestmark = pytest.mark.slow

INDEX = "model.safetensors.index.json"
TIED = {"gpt2": "transformer.wte.weight", "gemma2": "model.embed_tokens.weight"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One directory per architecture; tests copy it before they change it."""
    return {kind: write_base(kind, tmp_path_factory.mktemp(kind)) for kind in ARCHITECTURES}


@pytest.fixture
def base(written: dict[str, Path], tmp_path: Path) -> Path:
    """A qwen2 base that a test may spoil."""
    return Path(shutil.copytree(written["qwen2"], tmp_path / "base"))


def _load(directory: Path | str) -> Any:
    from guardrail.model.load import load_base

    return load_base(directory)


def _tensors(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(directory / "model.safetensors")
    return found


def _write(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # a base that is loaded still maps the old file
    save_file(tensors, path, metadata={"format": "pt"})


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _index(directory: Path, shard: str) -> None:
    """An index that puts every tensor into ``shard``."""
    weight_map = dict.fromkeys(_tensors(directory), shard)
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_base_without_any_one_of_its_tensors_is_refused_by_the_tensors_name(
    written: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(written[kind], tmp_path / "base"))
    tensors = _tensors(directory)
    for name in tensors:
        _write({key: value for key, value in tensors.items() if key != name}, directory / "model.safetensors")
        with pytest.raises(InvalidInput, match=name.replace(".", r"\.")):
            _load(directory)


def test_the_testbed_without_a_tensor_is_refused(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(WEIGHTS, tmp_path / "base"))
    name = "model.layers.1.mlp.down_proj.weight"
    _write({key: value for key, value in _tensors(directory).items() if key != name}, directory / "model.safetensors")
    with pytest.raises(InvalidInput, match=f"missing: {name}"):
        _load(directory)


@pytest.mark.parametrize("kind", sorted(TIED))
def test_tied_embeddings_may_lie_under_either_name_and_are_read_from_it(
    written: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    import torch

    directory = Path(shutil.copytree(written[kind], tmp_path / "base"))
    tensors = _tensors(directory)
    embedding = tensors.pop(TIED[kind])
    assert "lm_head.weight" not in tensors
    for name in (TIED[kind], "lm_head.weight"):
        _write({**tensors, name: embedding}, directory / "model.safetensors")
        model = _load(directory).model
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            assert torch.equal(part.weight.cpu(), embedding.to(part.weight.dtype))


def test_weights_of_another_shape_than_the_configuration_are_named(base: Path) -> None:
    _edit(base / "config.json", intermediate_size=96)
    with pytest.raises(InvalidInput, match=r"of another shape: model\.layers\.0\.mlp\.down_proj\.weight"):
        _load(base)


@pytest.mark.parametrize(
    "name", ["lm_head.bias", "model.layers.2.mlp.down_proj.weight", "model.layers.0.q_norm.weight"]
)
def test_tensors_that_the_configuration_leaves_out_of_a_part_that_it_has_are_refused(base: Path, name: str) -> None:
    tensors = _tensors(base)
    _write({**tensors, name: tensors["model.norm.weight"].clone()}, base / "model.safetensors")
    with pytest.raises(InvalidInput, match=f"no place in the model: {name}"):
        _load(base)


@pytest.mark.parametrize("name", ["v_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "h.0.attn.bias"])
def test_an_extra_head_and_buffers_that_are_computed_today_are_let_pass(base: Path, name: str) -> None:
    tensors = _tensors(base)
    _write({**tensors, name: tensors["model.norm.weight"].clone()}, base / "model.safetensors")
    assert _load(base).ref.architecture == "Qwen2ForCausalLM"


@pytest.mark.parametrize("where", ["shards/model.safetensors", "../model.safetensors", "{}/model.safetensors"])
def test_an_index_that_points_outside_the_directory_is_refused(base: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    shard = where.format(outside)
    _index(base, shard)
    (base / shard).parent.mkdir(exist_ok=True)
    (base / "model.safetensors").rename(base / shard)
    with pytest.raises(InvalidInput, match="puts weights into"):
        _load(base)


def test_a_configuration_that_names_weights_in_a_folder_is_refused(base: Path) -> None:
    (base / "shards").mkdir()
    (base / "model.safetensors").rename(base / "shards" / "model.safetensors")
    _edit(base / "config.json", transformers_weights="shards/model.safetensors")
    with pytest.raises(InvalidInput, match="cannot load the base"):
        _load(base)


def test_shards_beside_their_index_are_loaded_and_every_byte_of_them_is_in_the_digest(base: Path) -> None:
    import torch

    from guardrail.model.load import base_digest

    tensors = _tensors(base)
    _index(base, "model-00001-of-00001.safetensors")
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    before = _load(base)
    _write({key: 2 * value for key, value in tensors.items()}, base / "model-00001-of-00001.safetensors")
    after = _load(base)
    assert not torch.equal(before.model.lm_head.weight, after.model.lm_head.weight)
    assert before.ref.digest != after.ref.digest == base_digest(base)


def test_an_index_that_names_a_file_which_is_not_there_is_refused(base: Path) -> None:
    _index(base, "model-00001-of-00002.safetensors")
    with pytest.raises(InvalidInput, match=r"model-00001-of-00002.*, which is not there"):
        _load(base)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}'])
def test_an_index_that_is_none_is_refused(base: Path, text: str) -> None:
    (base / INDEX).write_text(text)
    with pytest.raises(InvalidInput, match=INDEX):
        _load(base)


@pytest.mark.parametrize(
    "name",
    [
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "generation_config.json",
        "spiece.model",
        "tokenizer.model",
        "merges.txt",
        "vocab.json",
        "added_tokens.json",
        "qwen.tiktoken",
        INDEX,
    ],
)
def test_files_that_can_shape_the_model_are_in_the_digest(base: Path, name: str) -> None:
    from guardrail.model.load import base_digest

    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_text("{}")
    before = base_digest(base)
    (base / name).write_text("[]")
    assert base_digest(base) != before


def test_files_that_the_digest_does_not_cover_are_not_read(base: Path) -> None:
    tokenizer = base / "tokenizer.json"
    (base / "sub").mkdir()
    tokenizer.rename(base / "sub" / "tokenizer.9.0.json")
    _edit(base / "tokenizer_config.json", fast_tokenizer_files=["sub/tokenizer.9.0.json"])
    with pytest.raises(InvalidInput, match="no vocabulary"):
        _load(base)


@settings(max_examples=40)
@given(data=st.data())
def test_a_change_of_any_byte_changes_the_digest(written: dict[str, Path], data: st.DataObject) -> None:
    from guardrail.model.load import base_digest

    before = base_digest(written["qwen2"])
    path = data.draw(st.sampled_from(sorted(written["qwen2"].iterdir())))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    stamp = path.stat()
    path.write_bytes(original[:at] + bytes([original[at] ^ data.draw(st.integers(1, 255))]) + original[at + 1 :])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # a modification time can be set back
    try:
        assert base_digest(written["qwen2"]) != before
    finally:
        path.write_bytes(original)


def test_a_base_of_links_as_the_hub_lays_it_out_has_the_digest_of_its_files(base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in base.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert _load(snapshot).ref.digest == _load(base).ref.digest


def test_a_loaded_base_names_its_directory_and_no_temporary_one(base: Path) -> None:
    loaded = _load(base)
    names = (loaded.model.name_or_path, loaded.model.config.name_or_path, loaded.tokenizer.name_or_path)
    assert set(names) == {str(loaded.directory)} == {str(base.resolve())}


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _code(directory: Path) -> None:
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    _edit(directory / "config.json", model_type="own", auto_map=auto)
    (directory / "own.py").write_text("raise SystemExit('run')\n")


def _no_tokenizer(directory: Path) -> None:
    for path in directory.glob("tokenizer*"):
        path.unlink()


def _dangling(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to(directory / "gone")


SPOILT: dict[str, Callable[[Path], Any]] = {
    "truncated weights": _truncate,
    "empty weights": lambda base: (base / "model.safetensors").write_bytes(b""),
    "a page instead of weights": lambda base: (base / "model.safetensors").write_text("<html>not found</html>"),
    "no weights": lambda base: (base / "model.safetensors").unlink(),
    "a configuration that is a list": lambda base: (base / "config.json").write_text("[]"),
    "a configuration that is no JSON": lambda base: (base / "config.json").write_text("{"),
    "no configuration": lambda base: (base / "config.json").unlink(),
    "a number as text": lambda base: _edit(base / "config.json", hidden_size="many"),
    "no heads": lambda base: _edit(base / "config.json", num_attention_heads=0, head_dim=None),
    "a negative size": lambda base: _edit(base / "config.json", hidden_size=-3),
    "an unknown architecture": lambda base: _edit(base / "config.json", model_type="unheard-of"),
    "another task": lambda base: _edit(base / "config.json", model_type="vit"),
    "its own code": _code,
    "a tokenizer that is none": lambda base: (base / "tokenizer.json").write_text('{"model": 3}'),
    "no tokenizer": _no_tokenizer,
    "a link to nowhere": _dangling,
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_bad_base_is_invalid_input(base: Path, what: str) -> None:
    SPOILT[what](base)
    with pytest.raises(InvalidInput, match=str(base)) as caught:
        _load(base)
    assert "/tmp" not in caught.value.message().replace(str(base), "")  # noqa: S108


@pytest.mark.parametrize("name", ["my model", "--base", "a..b", "org/" + "x" * 200, "ünicode"])
def test_a_name_that_is_neither_a_directory_nor_a_hub_id_is_invalid_input(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a Hub id") as caught:
        _load(name)
    assert "Hub id" in caught.value.expected


def test_a_file_is_no_base(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base)
    with pytest.raises(InvalidInput, match=r"no such directory: model\.safetensors"):
        _load("model.safetensors")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_base_is_refused(base: Path, name: str) -> None:
    (base / name).write_text("{}")
    with pytest.raises(InvalidInput, match=name) as caught:
        _load(base)
    assert "without the adapter" in caught.value.next_step


def test_a_tokenizer_with_a_pad_token_but_no_end_token_is_refused(base: Path) -> None:
    _edit(base / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InvalidInput, match="no end-of-text token"):
        _load(base)
