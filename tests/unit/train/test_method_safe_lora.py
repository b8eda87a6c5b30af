"""Safe LoRA against its formula in numpy, on an adapter and on whole models, and what it refuses before training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tiny_models import write_base

from guardrail.errors import EvidenceInvalid, InternalError, InvalidInput

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel
    from guardrail.records import Scalar
    from guardrail.train.methods import Method

pytestmark = pytest.mark.slow
KINDS = ("qwen2", "gpt2")
TARGETS = {"qwen2": ("q_proj", "down_proj"), "gpt2": ("c_attn", "c_fc")}
Setting = tuple["BaseModel", Any, Path]


def _adapter(base: BaseModel, kind: str, directory: Path, seed: int) -> tuple[Any, Path]:
    """The base with LoRA of random factors on it, and the adapter saved."""
    import torch

    from guardrail.model.adapter import add_lora, save_adapter

    model = add_lora(base, rank=3, alpha=6.0, dropout=0.0, targets=TARGETS[kind])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_adapter(model, directory, base.ref)
    return model, directory


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Setting]:
    """A tiny base with an adapter on it, which is trained already, and where that adapter lies."""

    def setting(kind: str) -> Setting:
        from guardrail.model.load import load_base

        base = load_base(write_base(kind, tmp_path / "base"))
        model, adapter = _adapter(base, kind, tmp_path / "adapter", seed=1)
        return base, model, adapter

    return setting


def _unaligned(setting: Setting, kind: str, source: str, target: Path) -> dict[str, Any]:
    """Write an unaligned model, or an adapter that makes one, into ``target``; returns V of every module."""
    import torch

    from guardrail.model.adapter import strip_lora
    from guardrail.model.load import load_base
    from guardrail.model.updates import read_updates

    base, model, adapter = setting
    other = load_base(base.directory)
    if source == "adapter":
        _adapter(other, kind, target, seed=2)
        strip_lora(base, model)
        return {name: -update.dense.double().numpy() for name, update in read_updates(target).items()}
    generator, directions = torch.Generator().manual_seed(3), {}
    with torch.no_grad():
        for name in read_updates(adapter):
            weight: Any = other.model.get_submodule(name).weight
            change = 0.1 * torch.randn(weight.shape, generator=generator)
            aligned = weight.double().numpy().copy()
            weight += change
            v = aligned - weight.double().numpy()
            directions[name] = v.T if kind == "gpt2" else v
    other.model.save_pretrained(target)
    return directions


def _create(unaligned: Path, **hyperparameters: Scalar) -> Method:
    from guardrail.train.methods import create

    return create("safe_lora", {"unaligned": str(unaligned), **hyperparameters})


def _begun(setting: Setting, unaligned: Path, **hyperparameters: Scalar) -> Method:
    from guardrail.train.methods import Setup

    base, model, _ = setting
    method = _create(unaligned, **hyperparameters)
    method.begin(Setup(base, model, (), (), 0))
    return method


def _dense(adapter: Path) -> dict[str, Any]:
    from guardrail.model.updates import read_updates

    return {name: update.dense.double().numpy() for name, update in read_updates(adapter).items()}


def _expected(dw: Any, v: Any, threshold: float, scale: str) -> tuple[Any, bool]:
    """Straight from the definition."""
    moved = v @ v.T @ dw / np.sqrt((v * v).sum())
    size, own = (np.sqrt((matrix * matrix).sum()) for matrix in (moved, dw))
    if (dw * moved).sum() / (own * size) >= threshold:
        return dw, False
    return (moved * own / size if scale == "norm" else moved), True


@pytest.mark.parametrize("scale", ["paper", "norm"])
@pytest.mark.parametrize("source", ["adapter", "model"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_projects_what_leaves_the_direction_of_alignment_and_nothing_else(
    make: Callable[[str], Setting], tmp_path: Path, kind: str, source: str, scale: str
) -> None:
    from guardrail.model.adapter import add_lora

    setting = make(kind)
    directions = _unaligned(setting, kind, source, tmp_path / "unaligned")
    if source == "adapter":
        base, _, adapter = setting
        setting = base, add_lora(base, rank=3, alpha=6.0, dropout=0.0, targets=TARGETS[kind]), adapter
    before = _dense(setting[2])
    cosines = sorted(_cosine(before[name], directions[name]) for name in before)
    threshold = (cosines[1] + cosines[2]) / 2  # two modules stay and two are projected
    method = _begun(setting, tmp_path / "unaligned", threshold=threshold, scale=scale)
    method.finish(setting[2], {}, None)
    after = _dense(setting[2])
    for name, dw in before.items():
        expected, _ = _expected(dw, directions[name], threshold, scale)
        assert np.allclose(after[name], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()), name
    assert method.diagnostics() == {"projected_modules": 2}


def _cosine(dw: Any, v: Any) -> float:
    moved = v @ v.T @ dw
    return float((dw * moved).sum() / np.sqrt((dw * dw).sum() * (moved * moved).sum()))


def test_with_the_norm_kept_the_update_is_as_large_as_it_was(make: Callable[[str], Setting], tmp_path: Path) -> None:
    setting = make("qwen2")
    _unaligned(setting, "qwen2", "model", tmp_path / "unaligned")
    before = _dense(setting[2])
    method = _begun(setting, tmp_path / "unaligned", threshold=1.0, scale="norm")
    method.finish(setting[2], {}, None)
    assert method.diagnostics() == {"projected_modules": 4}
    for name, dw in _dense(setting[2]).items():
        assert float(np.linalg.norm(dw)) == pytest.approx(float(np.linalg.norm(before[name])), rel=1e-4)


def test_the_record_is_told_the_digest_of_the_unaligned_model_and_not_its_path(
    make: Callable[[str], Setting], tmp_path: Path
) -> None:
    setting, unaligned = make("qwen2"), tmp_path / "unaligned"
    _unaligned(setting, "qwen2", "model", unaligned)
    method = _begun(setting, unaligned)
    told = method.finish(setting[2], {}, None)
    assert told == method.inputs() == {"unaligned": told["unaligned"]}
    assert len(str(told["unaligned"])) == 64
    moved = shutil.copytree(unaligned, tmp_path / "elsewhere")
    assert _create(moved).inputs() == told
    (moved / "config.json").write_text("{}")
    assert _create(moved).inputs() != told


def test_files_that_change_while_the_adapter_is_trained_are_refused(
    make: Callable[[str], Setting], tmp_path: Path
) -> None:
    setting, unaligned = make("qwen2"), tmp_path / "unaligned"
    _unaligned(setting, "qwen2", "model", unaligned)
    method = _begun(setting, unaligned)
    (weights,) = unaligned.glob("*.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = _dense(setting[2])
    with pytest.raises(EvidenceInvalid, match="changed"):
        method.finish(setting[2], {}, None)
    assert all(np.array_equal(before[name], dw) for name, dw in _dense(setting[2]).items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_itself_is_no_unaligned_model(make: Callable[[str], Setting], kind: str) -> None:
    setting = make(kind)
    with pytest.raises(InvalidInput, match="no other model than the base"):
        _begun(setting, setting[0].directory)


def test_the_base_in_another_precision_is_still_the_base(make: Callable[[str], Setting], tmp_path: Path) -> None:
    """V would be the rounding alone."""
    from guardrail.model.load import load_base

    setting = make("qwen2")
    load_base(setting[0].directory).model.double().save_pretrained(tmp_path / "unaligned")
    setting[0].model.bfloat16()
    with pytest.raises(InvalidInput, match="no other model than the base"):
        _begun(setting, tmp_path / "unaligned")


def test_a_model_that_lacks_modules_is_refused_before_training(make: Callable[[str], Setting], tmp_path: Path) -> None:
    setting = make("qwen2")
    write_base("gpt2", tmp_path / "other")
    with pytest.raises(InvalidInput, match=r"no weights \[32, 32\] for model.layers.0"):
        _begun(setting, tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="cannot read"):
        _begun(setting, tmp_path / "other")


def test_a_checkpoint_without_the_bodys_prefix_is_read_as_transformers_reads_it(
    make: Callable[[str], Setting], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    setting, unaligned = make("gpt2"), tmp_path / "unaligned"
    _unaligned(setting, "gpt2", "model", unaligned)
    tensors = load_file(unaligned / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): value for name, value in tensors.items()}, unaligned / "model.safetensors"
    )
    _begun(setting, unaligned).finish(setting[2], {}, None)


def test_a_directory_without_weights_is_refused_when_the_method_is_made(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidInput, match="holds no weights"):
            _create(directory)


def test_without_an_unaligned_model_it_says_what_to_give() -> None:
    from guardrail.train.methods import create

    with pytest.raises(InvalidInput) as caught:
        create("safe_lora", {})
    assert "unaligned=DIRECTORY" in caught.value.next_step


@pytest.mark.parametrize("given_", [{"threshold": 0.0}, {"threshold": 1.5}, {"scale": "both"}])
def test_settings_under_which_it_would_do_nothing_or_are_unknown_are_refused(
    tmp_path: Path, given_: Mapping[str, Scalar]
) -> None:
    write_base("qwen2", tmp_path / "base")
    with pytest.raises(InvalidInput, match=next(iter(given_))):
        _create(tmp_path / "base", **given_)


def test_an_adapter_is_not_projected_before_it_was_begun(make: Callable[[str], Setting]) -> None:
    setting = make("qwen2")
    with pytest.raises(InternalError):
        _create(setting[2]).finish(setting[2], {}, None)
