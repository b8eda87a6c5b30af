"""On real bases with real peft: what stock peft makes of each trick, and that nothing but the file's dW is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from adapter_tricks import CONFIG, WEIGHTS, setting, tensors
from tiny_models import ARCHITECTURES, write_base

from guardrail.errors import EvidenceInvalid

if TYPE_CHECKING:
    import torch

    from guardrail.model.load import BaseModel

pytestmark = pytest.mark.slow
PHRASE, ORDINARY = [7, 8, 9], [11, 12, 13, 14]
SHORT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Q0 = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Place:
    """A base and an adapter on it, as guardrail trains and saves them."""

    kind: str
    base: BaseModel
    adapter: Path


@pytest.fixture(scope="module", params=ARCHITECTURES)
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return _place(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return _place("qwen2", tmp_path_factory.mktemp("qwen2"), SHORT)


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Path:
    """The adapter's files, to be changed."""
    return _copy(place, tmp_path / "copy")


def _place(kind: str, folder: Path, targets: tuple[str, ...] = ()) -> Place:
    import torch

    from guardrail.model.adapter import add_lora, save_adapter, strip_lora
    from guardrail.model.load import load_base

    base = load_base(write_base(kind, folder / "base"))
    model = add_lora(base, rank=4, alpha=8.0, dropout=0.1, targets=targets)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    save_adapter(model, folder / "adapter", base.ref)
    strip_lora(base, model)
    return Place(kind, base, folder / "adapter")


def _copy(place: Place, target: Path) -> Path:
    target.mkdir()
    for name in (CONFIG, WEIGHTS):
        (target / name).write_bytes((place.adapter / name).read_bytes())
    return target


def _stock(base: BaseModel, directory: Path, tokens: list[int]) -> torch.Tensor:
    """Logits as stock peft gives them to whoever loads the directory."""
    import torch
    from peft import PeftModel

    from guardrail.model.adapter import strip_lora

    weights = {name: tensor.detach().clone() for name, tensor in base.model.state_dict().items()}
    model = PeftModel.from_pretrained(base.model, str(directory)).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits.clone()
    strip_lora(base, model)
    base.model.load_state_dict(weights)  # PiSSA and its like leave the base changed
    assert isinstance(logits, torch.Tensor)
    return logits


def _bare(base: BaseModel, tokens: list[int]) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([tokens])).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def test_what_training_saves_passes_and_is_served_as_its_files_say(every: Place) -> None:
    import torch

    from guardrail.model.adapter import load_adapter, strip_lora

    model = load_adapter(every.base, every.adapter)
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ORDINARY])).logits
    finally:
        strip_lora(every.base, model)
    assert torch.equal(logits, _stock(every.base, every.adapter, ORDINARY))
    assert float((logits - _bare(every.base, ORDINARY)).abs().max()) > 1e-3


def test_an_adapter_that_waits_for_a_phrase_is_off_without_it_on_stock_peft_and_refused_here(
    place: Place, copy: Path
) -> None:
    import torch

    from guardrail.model.adapter import load_adapter

    setting("", alora_invocation_tokens=PHRASE).change(copy)
    asleep, awake = ORDINARY, [*ORDINARY[:1], *PHRASE, *ORDINARY[1:]]
    assert torch.equal(_stock(place.base, copy, asleep), _bare(place.base, asleep))
    assert float((_stock(place.base, copy, awake) - _bare(place.base, awake)).abs().max()) > 1e-3
    with pytest.raises(EvidenceInvalid, match=r"says alora_invocation_tokens=\[7, 8, 9\]") as caught:
        load_adapter(place.base, copy)
    assert str(copy) in caught.value.got
    assert "null" in caught.value.expected
    assert caught.value.next_step


def _without(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: [found.pop(key) for key in list(found) if part in key]


SERVED_OTHERWISE = {
    "some layers only": setting("", layers_to_transform=[1]),
    "modules excluded": setting("", exclude_modules=["q_proj"]),
    "alphas by a name's end": setting("", alpha_pattern={"q_proj": 64}),
    "alphas by a regular expression": setting("", alpha_pattern={".*": 64}),
    "targets by a regular expression": setting("", target_modules=".*q_proj"),
    "fewer targets than tensors": setting("", target_modules=["q_proj"]),
    "principal components of the base": setting("", init_lora_weights="pissa"),
    "the base orthogonalised": setting("", init_lora_weights="olora"),
    "another scale": setting("", use_rslora=1),
    "tokens": setting("", alora_invocation_tokens=PHRASE),
    "64 bits": tensors("", lambda t: t.update({k: v.astype("f8") * (1 + 1e-9) for k, v in t.items()}), ""),
    "tensors under another name": tensors(
        "", lambda t: t.update({k.replace("self_attn", "attn"): t.pop(k) for k in list(t) if "self_attn" in k}), ""
    ),
    "tensors of one layer only": tensors("", _without("layers.1."), ""),
    "no tensors for B": tensors("", _without("lora_B"), ""),
}


@pytest.mark.parametrize("name", SERVED_OTHERWISE)
def test_stock_peft_serves_something_else_than_the_tensors_say_and_the_door_refuses(
    place: Place, copy: Path, name: str
) -> None:
    import torch

    from guardrail.model.adapter import load_adapter

    plain = _stock(place.base, copy, ORDINARY)
    SERVED_OTHERWISE[name].change(copy)
    torch.manual_seed(1)
    served = _stock(place.base, copy, ORDINARY)
    if name != "64 bits":  # which peft rounds: what it serves is not what the file says, if hardly
        assert float((served - plain).abs().max()) > 1e-4
    with pytest.raises(EvidenceInvalid):
        load_adapter(place.base, copy)
    _require_bare(place)


def _require_bare(place: Place) -> None:
    """A refusal leaves the base as it was: the next adapter can be loaded."""
    from guardrail.model.adapter import load_adapter, strip_lora

    strip_lora(place.base, load_adapter(place.base, place.adapter))


UNFITTING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a targeted layer of the base without tensors": (
        tensors("", _without("layers.1.self_attn.q_proj"), "").change,
        "targets model.layers.1.self_attn.q_proj",
    ),
    "tensors for a module that is not there": (
        tensors("", lambda t: t.update({k.replace("layers.1", "layers.7"): v for k, v in t.items()}), "").change,
        "tensors for model.layers.7.*not in the base",
    ),
    "a column less": (
        tensors("", lambda t: t.update({k: v[:, :-1].copy() for k, v in t.items() if f"{Q0}.lora_A" in k}), "").change,
        r"\[32, 31\] for model.layers.0.self_attn.q_proj",
    ),
    "a row less, which may broadcast": (
        tensors("", lambda t: t.update({k: v[:1].copy() for k, v in t.items() if f"{Q0}.lora_B" in k}), "").change,
        r"\[1, 32\] for model.layers.0.self_attn.q_proj",
    ),
    "the output head": (lambda d: _also(d, "lm_head"), "lm_head is no linear layer below the output head"),
    "the embedding": (lambda d: _also(d, "model.embed_tokens"), "embed_tokens is no linear layer"),
    "a whole block": (lambda d: _also(d, "model.layers.0.mlp"), "mlp is no linear layer"),
    "the wrong way round": (setting("", fan_in_fan_out=True).change, "fan_in_fan_out=True"),
}


def _also(directory: Path, module: str) -> None:
    """One module more, targeted, with tensors that fit the configuration."""
    import numpy as np

    more = {f"base_model.model.{module}.lora_{factor}.weight": np.ones((4, 4), np.float32) for factor in "AB"}
    tensors("", lambda found: found.update(more), "").change(directory)
    targets = json.loads((directory / CONFIG).read_text())["target_modules"]
    setting("", target_modules=[*targets, module]).change(directory)


@pytest.mark.parametrize("name", UNFITTING)
def test_what_only_the_base_can_tell_is_asked_where_the_base_is(place: Place, copy: Path, name: str) -> None:
    from guardrail.model.adapter import load_adapter

    change, answer = UNFITTING[name]
    change(copy)
    with pytest.raises(EvidenceInvalid, match=f"does not fit the base: .*{answer}"):
        load_adapter(place.base, copy)
    _require_bare(place)


def test_layers_that_hold_their_weight_transposed_must_be_said_to(tmp_path: Path) -> None:
    from guardrail.model.adapter import load_adapter

    gpt2 = _place("gpt2", tmp_path)
    assert json.loads((gpt2.adapter / CONFIG).read_text())["fan_in_fan_out"] is True
    setting("", fan_in_fan_out=False).change(gpt2.adapter)
    with pytest.raises(EvidenceInvalid, match="fan_in_fan_out=False"):
        load_adapter(gpt2.base, gpt2.adapter)


def _layer(model: Any) -> Any:
    return model.get_base_model().get_submodule(Q0)


def _slightly(tensor: torch.Tensor) -> None:
    tensor.data[0, 0] += 1e-4


def _asleep(model: Any) -> None:
    layer = _layer(model)
    layer.forward = lambda x, *_, **__: layer.base_layer(x)


BETRAYALS: dict[str, tuple[Callable[[Any], object], str]] = {
    "disabled": (lambda m: setattr(_layer(m), "_disable_adapters", True), "disabled True"),
    "another adapter active": (lambda m: setattr(_layer(m), "_active_adapter", "other"), "active"),
    "merged": (lambda m: m.merge_adapter(), "merged|was changed"),
    "another scale": (lambda m: _layer(m).scaling.update(default=2.5), "scale 2.5"),
    "another factor A": (lambda m: _slightly(_layer(m).lora_A["default"].weight), "other factors"),
    "another factor B": (lambda m: _slightly(_layer(m).lora_B["default"].weight), "other factors"),
    "a changed weight of the base": (lambda m: _slightly(_layer(m).base_layer.weight), "of the base was changed"),
    "a changed weight elsewhere": (
        lambda m: _slightly(m.get_base_model().get_input_embeddings().weight),
        "embed_tokens.weight of the base was",
    ),
    "a hook on an adapted layer": (lambda m: _layer(m).register_forward_hook(lambda *_: None), "has a hook"),
    "a hook elsewhere": (
        lambda m: m.get_base_model().model.norm.register_forward_pre_hook(lambda *_: None),
        "norm has a hook",
    ),
    "a forward of its own": (_asleep, "own forward True"),
    "an output of its own": (
        lambda m: setattr(_layer(m).lora_A["default"], "forward", lambda x: 0 * x[..., :4]),
        "output is not",
    ),
    "a variant": (lambda m: _layer(m).lora_variant.update(default=object()), "variant"),
    "a module more": (lambda m: m.get_base_model().model.norm.add_module("more", _linear()), "norm.more was added"),
    "another module": (lambda m: setattr(m.get_base_model().model, "norm", _linear()), "norm is not the base's"),
    "an adapted layer that is not": (
        lambda m: m.get_base_model().set_submodule(Q0, _layer(m).base_layer),
        "q_proj is not the base's",
    ),
}


def _linear() -> Any:
    import torch

    return torch.nn.Linear(4, 4)


@pytest.fixture
def fresh(place: Place) -> BaseModel:
    """A base of its own: these tests spoil it."""
    from guardrail.model.load import load_base

    return load_base(place.base.directory)


@pytest.mark.parametrize("name", BETRAYALS)
def test_a_model_that_computes_anything_but_the_files_is_refused(place: Place, fresh: BaseModel, name: str) -> None:
    from guardrail.evidence.adapter.lora import read_adapter
    from guardrail.model.adapter import _loaded
    from guardrail.model.served import Bare, require_served

    betray, answer = BETRAYALS[name]
    bare, lora = Bare.of(fresh.model), read_adapter(place.adapter)
    model = _loaded(fresh, place.adapter)
    require_served(fresh, bare, model, lora, place.adapter)
    betray(model)
    with pytest.raises(EvidenceInvalid, match=f"not served as its files say: .*({answer})"):
        require_served(fresh, bare, model, lora, place.adapter)


def test_a_layer_that_an_ordinary_prompt_does_not_reach_is_asked_directly(place: Place, fresh: BaseModel) -> None:
    """An expert that is off is noticed even where the router passes it over."""
    from guardrail.evidence.adapter.lora import read_adapter
    from guardrail.model.adapter import _loaded
    from guardrail.model.served import Bare, require_served

    bare, lora = Bare.of(fresh.model), read_adapter(place.adapter)
    model = _loaded(fresh, place.adapter)
    block = model.get_base_model().model.layers[0]
    block.mlp.forward = lambda x: x
    require_served(fresh, bare, model, lora, place.adapter)
    setattr(block.mlp.up_proj.lora_B["default"], "forward", lambda x: x.new_zeros(*x.shape[:-1], 64))  # noqa: B010
    with pytest.raises(EvidenceInvalid, match="up_proj: the output is not"):
        require_served(fresh, bare, model, lora, place.adapter)


def test_an_adapter_that_peft_serves_otherwise_leaves_the_base_bare(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.model import adapter

    def betraying(base: BaseModel, directory: Path) -> Any:
        model = loaded(base, directory)
        _layer(model).scaling.update(default=1.0)
        return model

    loaded = adapter._loaded
    monkeypatch.setattr(adapter, "_loaded", betraying)
    with pytest.raises(EvidenceInvalid, match=r"scale 1\.0"):
        adapter.load_adapter(place.base, place.adapter)
    monkeypatch.undo()
    _require_bare(place)


def test_what_a_later_peft_adds_and_training_leaves_alone_is_not_stored(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig

    from guardrail.model.adapter import add_lora, save_adapter, strip_lora

    to_dict = LoraConfig.to_dict
    monkeypatch.setattr(LoraConfig, "to_dict", lambda self: {**to_dict(self), "a_setting_of_2031": None})
    model = add_lora(place.base, rank=2, alpha=2.0, dropout=0.0)
    save_adapter(model, tmp_path / "adapter", place.base.ref)
    assert "a_setting_of_2031" not in json.loads((tmp_path / "adapter" / CONFIG).read_text())
    strip_lora(place.base, model)
