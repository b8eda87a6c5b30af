"""Updates against stock peft: dW is what peft serves, what is written serves the same, and variants are refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from full_disk import full_disk

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable

if TYPE_CHECKING:
    import torch

    from guardrail.model.updates import Update

pytestmark = pytest.mark.slow

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TOKENS = [[3, 1, 4, 1, 5, 9, 2, 6]]
Edit = Callable[[dict[str, Any]], object]


def _llama(layers: int = 2) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers, num_key_value_heads=1)).eval()


def _gpt2() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()


def _adapter(base: Any, directory: Path, **settings: Any) -> Path:
    """An adapter as peft saves it, with factors that are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    model = get_peft_model(base, LoraConfig(**settings))
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(directory))
    (directory / "README.md").unlink(missing_ok=True)
    model.unload()
    return _edit(directory, lambda config: config.pop("auto_mapping"))  # which peft writes where no task is named


def _served(base: Any, directory: Path) -> dict[str, torch.Tensor]:
    """dW of every layer as peft computes it from the files."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    model = PeftModel.from_pretrained(base, str(directory))
    found = {
        name.removeprefix(PREFIX): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    model.unload()
    return found


def _logits(base: Any, directory: Path) -> torch.Tensor:
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(directory)).eval()
    with torch.no_grad():
        logits = model(torch.tensor(TOKENS)).logits
    model.unload()
    assert isinstance(logits, torch.Tensor)
    return logits


def _edit(directory: Path, edit: Edit, *, weights: bool = False) -> Path:
    from safetensors.torch import load_file, save_file

    if weights:
        tensors = load_file(directory / WEIGHTS)
        edit(tensors)
        save_file(tensors, directory / WEIGHTS)
    else:
        config = json.loads((directory / CONFIG).read_text())
        edit(config)
        (directory / CONFIG).write_text(json.dumps(config))
    return directory


def _assert_same(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], relative: float) -> None:
    assert set(got) == set(expected)
    for name in expected:
        error = float((got[name].double() - expected[name].double()).norm())
        assert error <= relative * float(expected[name].double().norm()), name


def _dense(updates: Mapping[str, Update]) -> dict[str, torch.Tensor]:
    return {name: update.dense for name, update in updates.items()}


Q1 = r"^model\.layers\.1\.self_attn\.q_proj"
# Layer 1 and layer 11 are both there: a pattern for one must not catch the other.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {Q1: 3, r"^model\.layers\.11\.mlp\.down_proj": 7}},
    "alphas": {"alpha_pattern": {Q1: 32}},
    "rslora with both": {"use_rslora": True, "rank_pattern": {Q1: 2}, "alpha_pattern": {Q1: 5}},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_dw_is_what_peft_serves(name: str, tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates

    base = _llama(layers=12)
    directory = _adapter(base, tmp_path / "a", **SETTINGS[name])
    updates = read_updates(directory)
    assert len(updates) == 24
    _assert_same(_dense(updates), _served(base, directory), 1e-6)


def test_rslora_divides_by_the_square_root_of_the_rank(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates

    updates = read_updates(_adapter(_llama(), tmp_path / "a", use_rslora=True))
    assert {update.scale for update in updates.values()} == {6 / math.sqrt(4)}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_written_serves_the_same(name: str, tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import read_updates, write_updates

    base = _llama(layers=12)
    source = _adapter(base, tmp_path / "a", **SETTINGS[name])
    updates = read_updates(source)
    write_updates(tmp_path / "b", updates, source)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [CONFIG, WEIGHTS]
    again = read_updates(tmp_path / "b")
    assert all(torch.equal(again[key].a, updates[key].a) and torch.equal(again[key].b, updates[key].b) for key in again)
    _assert_same(_served(base, tmp_path / "b"), _dense(updates), 1e-6)
    bare, logits = base(torch.tensor(TOKENS)).logits, _logits(base, source)
    assert float((logits - bare).abs().max()) > 1e-2
    assert float((_logits(base, tmp_path / "b") - logits).abs().max()) < 1e-5


def test_every_module_may_have_a_rank_and_a_scale_of_its_own(tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import Update, read_updates, write_updates

    base = _llama(layers=12)
    source = _adapter(base, tmp_path / "a")
    generator = torch.Generator().manual_seed(1)
    updates = {
        name: Update(
            torch.randn(1 + n % 5, old.a.shape[1], generator=generator),
            torch.randn(old.b.shape[0], 1 + n % 5, generator=generator),
            scale,
        )
        for n, (name, old) in enumerate(read_updates(source).items())
        for scale in [(-1) ** n * n / 7]
    }
    write_updates(tmp_path / "b", updates, source)
    assert [u.scale for u in read_updates(tmp_path / "b").values()] == pytest.approx(
        [u.scale for u in updates.values()], rel=1e-14
    )
    _assert_same(_served(base, tmp_path / "b"), _dense(updates), 1e-6)


def test_a_pattern_names_its_module_and_no_other() -> None:
    """``q`` is the end of ``deep.q``, and a dot is any character to a regular expression."""
    from peft.utils.other import get_pattern_key

    from guardrail.evidence.adapter.lora_settings import exactly

    names = ["q", "deep.q", "deep.q.q", "deepxq", "layers.1.q", "layers.11.q", "x.layers.1.q", "layersx1.q", "a+b[0]"]
    for name in names:
        matched = [other for other in names if get_pattern_key([exactly(name)], other) == exactly(name)]
        assert matched == [name]


def test_nested_modules_of_one_name_keep_their_own_ranks(tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import Update, read_updates, write_updates

    base = torch.nn.ModuleDict({"q": torch.nn.Linear(6, 5), "deep": torch.nn.ModuleDict({"q": torch.nn.Linear(6, 5)})})
    source = _adapter(base, tmp_path / "a", target_modules=["q"])
    updates = {
        name: Update(torch.randn(rank, 6), torch.randn(5, rank), 0.3) for name, rank in [("q", 2), ("deep.q", 5)]
    }
    assert set(read_updates(source)) == set(updates)
    write_updates(tmp_path / "b", updates, source)
    _assert_same(_served(base, tmp_path / "b"), _dense(updates), 1e-6)


def test_updates_of_other_modules_than_those_of_the_model_adapter_are_all_served(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    base = _llama(layers=4)
    like = _adapter(base, tmp_path / "a", target_modules=["q_proj"])
    source = _adapter(base, tmp_path / "b", target_modules="all-linear")
    updates = read_updates(source)
    del updates["model.layers.2.self_attn.v_proj"]
    write_updates(tmp_path / "c", updates, like)
    _assert_same(_served(base, tmp_path / "c"), _dense(updates), 1e-6)


def test_settings_that_are_not_of_the_update_are_copied(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a", lora_dropout=0.25, task_type="CAUSAL_LM", use_rslora=True)
    _edit(source, lambda config: config.update(base_model_name_or_path="org/base", revision="abc"))
    write_updates(tmp_path / "b", read_updates(source), source)
    before, after = (json.loads((directory / CONFIG).read_text()) for directory in (source, tmp_path / "b"))
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"use_rslora", "lora_alpha"}
    assert list(after) == sorted(after)


def test_alpha_stays_a_whole_number_where_one_gives_the_scale(tmp_path: Path) -> None:
    from guardrail.model.updates import _alpha

    for rank in range(1, 300):
        for alpha in (1, 7, 16, 32, 255):
            assert isinstance(_alpha(alpha / rank, rank), int)
            assert _alpha(alpha / rank, rank) == alpha


def test_the_same_updates_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a", rank_pattern={Q1: 2}, alpha_pattern={Q1: 3})
    updates = read_updates(source)
    write_updates(tmp_path / "b", updates, source)
    write_updates(tmp_path / "c", dict(reversed(updates.items())), source)
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_an_adapter_may_be_replaced_by_what_was_read_from_it(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a")
    updates = read_updates(source)
    write_updates(source, {name: replace(update, scale=2 * update.scale) for name, update in updates.items()}, source)
    _assert_same(_dense(read_updates(source)), {name: 2 * dense for name, dense in _dense(updates).items()}, 1e-6)


def test_factors_that_share_memory_or_are_transposed_can_be_written(tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import Update, read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a", target_modules=["q_proj"])
    shared = Update(torch.randn(16, 3).T, torch.randn(3, 16).T, 1.0)
    updates = dict.fromkeys(read_updates(source), shared)
    write_updates(tmp_path / "b", updates, source)
    _assert_same(_dense(read_updates(tmp_path / "b")), _dense(updates), 0.0)


def test_half_precision_is_kept_in_the_file_and_not_in_the_arithmetic(tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a", lora_alpha=5, r=3)
    _edit(source, lambda t: t.update({key: value.bfloat16() for key, value in t.items()}), weights=True)
    updates = read_updates(source)
    write_updates(tmp_path / "b", updates, source)
    again = read_updates(tmp_path / "b")
    for name, update in updates.items():
        assert again[name].b.dtype == torch.bfloat16
        assert update.dense.dtype == torch.float32
        assert torch.equal(again[name].dense, update.dense)


def test_gpt2_adds_the_transpose(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    base = _gpt2()
    source = _adapter(base, tmp_path / "a", target_modules=["c_attn"], fan_in_fan_out=True)
    updates = read_updates(source)
    transposed = {name: update.dense.T for name, update in updates.items()}
    _assert_same(_served(base, source), transposed, 1e-6)
    write_updates(tmp_path / "b", updates, source)
    _assert_same(_served(base, tmp_path / "b"), transposed, 1e-6)


KEY = f"{PREFIX}model.layers.0.self_attn.q_proj"
REFUSED: dict[str, Edit] = {
    "use_dora": lambda c: c.update(use_dora=True),
    "bias='all'": lambda c: c.update(bias="all"),
    "modules_to_save": lambda c: c.update(modules_to_save=["lm_head"]),
    "peft_type='LOHA'": lambda c: c.update(peft_type="LOHA"),
    "has no peft_type": lambda c: c.pop("peft_type"),
    "init_lora_weights='pissa_niter_4'": lambda c: c.update(init_lora_weights="pissa_niter_4"),
    "init_lora_weights='olora'": lambda c: c.update(init_lora_weights="olora"),
    "trainable_token_indices": lambda c: c.update(trainable_token_indices=[1]),
    "a_variant_of_2031=True": lambda c: c.update(a_variant_of_2031=True),
    r"A \[4, 24\] and B \[16, 4\]": lambda c: c.update(r=8),
    "has no lora_alpha": lambda c: c.pop("lora_alpha"),
    r"rank_pattern=\{'\('": lambda c: c.update(rank_pattern={"(": 3}),
    "r='four'": lambda c: c.update(r="four"),
}
REFUSED_WEIGHTS: dict[str, Edit] = {
    "only one of lora_A and lora_B": lambda t: t.pop(f"{KEY}.lora_A.weight"),
    "no tensors": lambda t: t.clear(),
    "lora_embedding_A": lambda t: t.update(
        {f"{PREFIX}model.embed_tokens.lora_embedding_A": t[f"{KEY}.lora_A.weight"].clone()}
    ),
    "lora_magnitude_vector": lambda t: t.update({f"{KEY}.lora_magnitude_vector": t[f"{KEY}.lora_A.weight"][0].clone()}),
    "lora_B.bias": lambda t: t.update({f"{KEY}.lora_B.bias": t[f"{KEY}.lora_A.weight"][0].clone()}),
    r"A \[4, 16, 1, 1\]": lambda t: t.update({f"{KEY}.lora_A.weight": t[f"{KEY}.lora_A.weight"][:, :, None, None]}),
    r"A \[3, 16\] and B \[16, 4\]": lambda t: t.update({f"{KEY}.lora_A.weight": t[f"{KEY}.lora_A.weight"][:3].clone()}),
    "not finite": lambda t: t[f"{KEY}.lora_B.weight"].fill_(math.nan),
    "is of type 'I32'": lambda t: t.update({f"{KEY}.lora_A.weight": t[f"{KEY}.lora_A.weight"].int()}),
}


@pytest.mark.parametrize("found", [*REFUSED, *REFUSED_WEIGHTS])
def test_what_is_not_a_plain_lora_is_refused_by_name(found: str, tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates

    directory = _adapter(_llama(), tmp_path / "a")
    _edit(directory, {**REFUSED, **REFUSED_WEIGHTS}[found], weights=found in REFUSED_WEIGHTS)
    with pytest.raises(EvidenceInvalid, match=found) as caught:
        read_updates(directory)
    assert str(directory) in caught.value.got
    assert caught.value.next_step


VARIANTS: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True},
    "embed_tokens": {"target_modules": ["embed_tokens"]},
    "init_lora_weights='pissa'": {"init_lora_weights": "pissa"},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("found", VARIANTS)
def test_variants_as_peft_saves_them_are_refused(found: str, tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates

    with pytest.raises(EvidenceInvalid, match=found):
        read_updates(_adapter(_llama(), tmp_path / "a", **VARIANTS[found]))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates

    directory = _adapter(_llama(), tmp_path / "a")
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(EvidenceInvalid, match=r"cannot be read|of which its tensors fill"):
        read_updates(directory)
    (directory / name).unlink()
    with pytest.raises(EvidenceInvalid):
        read_updates(directory)


def test_what_cannot_be_served_is_not_written(tmp_path: Path) -> None:
    import torch

    from guardrail.model.updates import Update, read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a")
    name, update = next(iter(read_updates(source).items()))
    broken = [
        replace(update, scale=math.inf),
        Update(update.a[:2], update.b, 1.0),
        replace(update, a=update.a * math.nan),
    ]
    for updates in ({}, *({name: bad} for bad in broken)):
        with pytest.raises(InvalidInput, match="cannot write"):
            write_updates(tmp_path / "b", updates, source)
    assert not (tmp_path / "b").exists()
    assert isinstance(update.a, torch.Tensor)


def test_a_disk_that_refuses_is_said_so(tmp_path: Path) -> None:
    from guardrail.model.updates import read_updates, write_updates

    source = _adapter(_llama(), tmp_path / "a", r=16)
    updates = read_updates(source)
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ServiceUnavailable, match="cannot write the adapter"):
        write_updates(tmp_path / "file" / "b", updates, source)
    for limit in (100, 4000):  # the configuration, then the weights
        with full_disk(limit), pytest.raises(ServiceUnavailable, match="cannot write"):
            write_updates(tmp_path / "b", updates, source)
    shutil.rmtree(tmp_path / "b")
    write_updates(tmp_path / "b", updates, source)
    _assert_same(_dense(read_updates(tmp_path / "b")), _dense(updates), 0.0)
