"""LoRA adapters on a base: create, save, load, scale. The only importer of peft.

What is saved and what is loaded passes one door (``guardrail.evidence.adapter.lora``), so an adapter that is measured
is one whose files say completely what it does. An adapter directory holds ``adapter_model.safetensors`` and
``adapter_config.json`` and nothing else; the configuration names the base by its reference, never by a path of the
machine that trained it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import InternalError, InvalidInput
from guardrail.evidence.adapter.lora import FILES, read_adapter
from guardrail.evidence.adapter.lora_settings import CONFIG, SETTINGS
from guardrail.model.adapter_disk import writing_adapter
from guardrail.model.fits import is_linear, linear_layers, require_fitting
from guardrail.model.load import BaseModel
from guardrail.model.served import Bare, require_served
from guardrail.records import ModelRef


def add_lora(base: BaseModel, *, rank: int, alpha: float, dropout: float, targets: Sequence[str] = ()) -> Any:
    """The base with a fresh LoRA adapter on ``targets`` (default: every linear layer but the output head).

    Raises:
        InvalidInput: a target module does not exist; the message lists those that do. Or peft would adapt experts.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    _check_bare(base)
    _check_targets(base.model, targets)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        task_type=TaskType.CAUSAL_LM,
        # by name: under "all-linear" peft also adapts fused experts, which no plain LoRA can say
        target_modules=list(targets) or list(linear_layers(base.model)),
    )
    model = get_peft_model(base.model, config)
    _require_layers_only(base, model)
    return model


def _require_layers_only(base: BaseModel, model: Any) -> None:
    """Where a layer is called as a part of fused experts is, peft adapts the experts, too: told before any training."""
    parameters = model.peft_config["default"].target_parameters
    if parameters:
        strip_lora(base, model)
        raise InvalidInput(
            f"with these LoRA targets peft adapts experts of this base, too: {', '.join(sorted(parameters))}",
            expected="linear layers: what is adapted otherwise cannot be written as a plain LoRA",
            next_step="name layers outside the experts, such as --lora-target q_proj --lora-target v_proj",
        )


def lora_shapes(base: BaseModel, targets: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """[out, in] of every layer that an adapter on ``targets`` would have, by its name in the base, sorted.

    Raises:
        InvalidInput: a target module does not exist.
    """
    model = add_lora(base, rank=1, alpha=1.0, dropout=0.0, targets=targets)  # peft itself says what it would match
    try:
        layers = {name: layer for name, layer in model.get_base_model().named_modules() if hasattr(layer, "lora_A")}
        return {
            name: (layers[name].lora_B["default"].out_features, layers[name].lora_A["default"].in_features)
            for name in sorted(layers)
        }
    finally:
        strip_lora(base, model)


def strip_lora(base: BaseModel, model: Any) -> None:
    """Take the adapter's layers out of the base again, leaving its weights as they were."""
    model.unload()
    if hasattr(base.model, "peft_config"):
        del base.model.peft_config


def load_adapter(base: BaseModel, directory: Path) -> Any:
    """The base with the adapter in ``directory``, which computes exactly what its files say.

    Raises:
        EvidenceInvalid: the directory holds anything but the two files of a plain LoRA, which fits this base
            completely; or peft serves it otherwise.
        InvalidInput: peft cannot load it.
    """
    lora = read_adapter(directory)
    _check_bare(base)
    require_fitting(base.model, lora)
    bare = Bare.of(base.model)
    model = _loaded(base, directory)
    try:
        require_served(base, bare, model, lora, directory)
    except BaseException:
        strip_lora(base, model)
        raise
    return model


def _loaded(base: BaseModel, directory: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base.model, str(directory), is_trainable=False).eval()
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        strip = str(error).splitlines()[0][:200]
        raise InvalidInput(f"the adapter in {directory} does not fit {base.ref.name}: {strip}") from error


def save_adapter(model: Any, directory: Path, base: ModelRef) -> None:
    """Write the adapter's two files into ``directory`` (emptied first).

    Raises:
        EvidenceInvalid: it would not pass the door, because peft or training made something else of it.
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    nofollow.remove(directory)
    with writing_adapter(directory):
        model.save_pretrained(str(directory), safe_serialization=True)
        for path in directory.iterdir():
            if path.name not in FILES:
                path.unlink()
        config = _without_new_defaults(json.loads((directory / CONFIG).read_text(encoding="utf-8")))
        config.update(base_model_name_or_path=base.name, revision=base.revision, inference_mode=True)
        config.update(_sets_in_order(model.peft_config["default"].__dict__))
        write_atomically(directory / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    read_adapter(directory)


def _sets_in_order(kept: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """What peft keeps as a set has another order in every process; an empty one is what it makes of null."""
    return {key: sorted(value) or None for key, value in kept.items() if isinstance(value, set | frozenset)}


def _without_new_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Without what a later peft added and training left alone: the door knows only the keys that it was taught."""
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    return {
        key: value for key, value in config.items() if key in SETTINGS or key not in defaults or defaults[key] != value
    }


def _check_bare(base: BaseModel) -> None:
    """An adapter on top of another one would make a tuned model the teacher, or be measured for two.

    Raises:
        InternalError: layers of an adapter are still in the base.
    """
    if any("lora_" in name for name, _ in base.model.named_modules()):
        raise InternalError("the base still carries another adapter", expected="strip_lora() before the next one")


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    head = model.get_output_embeddings()  # every method projects through the frozen head: a trained one would be lost
    linear = sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if is_linear(module) and module is not head}
    )
    missing = [target for target in targets if target not in linear]
    if missing:
        raise InvalidInput(
            f"no LoRA target modules named {missing} (the output head is not adapted)",
            expected="names among " + ", ".join(linear),
        )
