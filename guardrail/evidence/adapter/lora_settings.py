"""The closed list of what ``adapter_config.json`` may say: settings under which the files alone determine dW.

peft does, without being asked, what the configuration says: apply the adapter only after certain tokens
(``alora_invocation_tokens``), rewrite the base (PiSSA, OLoRA, CorDA, LoftQ), train other tensors, import modules,
evaluate regular expressions against every name. What is not in the list is refused, whatever its value: a later peft
may give it a meaning. Names of modules are plain, so that no regular expression from outside is ever evaluated; the one
pattern that is let through is the exact name of one module, as ``guardrail.model.updates`` writes it.

Sources: peft 0.21 (``LoraConfig``, ``check_target_module_exists``, ``get_pattern_key``); LoRA (Hu et al., 2021, arXiv
2106.09685); rank-stabilised scale (Kalajdzievski, 2023, arXiv 2312.03732). Not covered: the tensors (``lora.py``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.safetensors_header import not_a_number, unambiguous
from guardrail.evidence.envelope import LARGEST

CONFIG: Final = "adapter_config.json"
LARGEST_RANK: Final = 1 << 16
LARGEST_SCALE: Final = 65504.0
"""The largest float16: a server in half precision would multiply by infinity where the evaluation did not."""
_MODULE = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
# Parts of a name that peft itself puts between a module and its adapter's tensors.
_RESERVED = frozenset({"base_layer", "default", "modules_to_save", "original_module", "token_adapter"})


@dataclass(frozen=True)
class Setting:
    """What one key may say."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class LoraSettings:
    """A configuration that was let through; ``ranks`` and ``alphas`` are of modules with their own, by exact name."""

    rank: int
    alpha: float
    rank_stabilised: bool
    fan_in_fan_out: bool
    targets: frozenset[str]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    base: str | None
    revision: str | None

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter."""
        return self.ranks.get(module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B A is multiplied by: alpha / rank, or alpha / sqrt(rank) under rsLoRA."""
        alpha, rank = self.alphas.get(module, self.alpha), self.rank_of(module)
        return float(alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank)

    def targets_of(self, module: str) -> frozenset[str]:
        """The entries of ``target_modules`` by which peft adapts a module of this name: the name, or its end at a dot.

        The ends are looked up, because trying every entry on every module takes hours for a mixture of experts.
        """
        parts = module.split(".")
        return self.targets & {".".join(parts[start:]) for start in range(len(parts))}


def plain_name(value: object) -> bool:
    """Whether this is a module's name and nothing else: no regular expression, no part that peft puts in."""
    if not isinstance(value, str) or len(value) > 512 or not _MODULE.fullmatch(value):
        return False
    return not any(part in _RESERVED or part.startswith("lora_") for part in value.split("."))


def exactly(module: str) -> str:
    r"""The pattern for this module and no other: peft puts ``(.*\.)?`` first, to which ``^`` leaves nothing."""
    return "^" + re.escape(module)


def _is(*values: object) -> Setting:
    """One of these, of exactly this type: 0 is not False."""
    return Setting(
        " or ".join(json.dumps(value) for value in values),
        lambda found: any(type(found) is type(value) and found == value for value in values),
    )


def _whole(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_RANK


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST_RANK * LARGEST_SCALE


def _text(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 1024)


def _patterns(fits: Callable[[object], bool]) -> Callable[[Any], bool]:
    return lambda found: (
        found is None or (isinstance(found, dict) and all(_exact(key) and fits(value) for key, value in found.items()))
    )


def _exact(pattern: str) -> bool:
    module = _module_of(pattern)
    return plain_name(module) and exactly(module) == pattern


def _module_of(pattern: str) -> str:
    return pattern.removeprefix("^").replace("\\", "")


def _names(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) == len(set(map(str, value))) and all(map(plain_name, value))


_NULL = (
    "alora_invocation_tokens",
    "arrow_config",
    "auto_mapping",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "velora_config",
)
_FALSE = ("ensure_weight_tying", "lora_bias", "use_dora", "use_qalora")
_BOOLEANS = ("fan_in_fan_out", "inference_mode", "use_rslora")
_EXACT_NAME = "the exact name of one module, as ^model\\.layers\\.0\\.q_proj"
SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        **dict.fromkeys(_NULL, _is(None)),
        **dict.fromkeys(_FALSE, _is(False)),
        **dict.fromkeys(_BOOLEANS, _is(False, True)),
        **dict.fromkeys(("base_model_name_or_path", "revision"), Setting("the base's name, or null", _text)),
        "alpha_pattern": Setting(f"numbers, each for {_EXACT_NAME}", _patterns(_number)),
        "bias": _is("none"),
        # Others change the base's weights as the adapter is loaded, or leave layers without tensors at random values;
        # with these it adds nothing.
        "init_lora_weights": _is(True, "gaussian"),
        "loftq_config": _is(None, {}),
        "lora_alpha": Setting("a number", _number),
        "lora_dropout": Setting("a number from 0 to less than 1", lambda found: _number(found) and 0 <= found < 1),
        "megatron_core": _is(None, "megatron.core"),
        "peft_type": _is("LORA"),
        "peft_version": Setting("a version", lambda found: _text(found) and len(found or "") <= 100),
        "qalora_group_size": _is(16),
        "r": Setting(f"a whole number from 1 to {LARGEST_RANK}", _whole),
        "rank_pattern": Setting(f"whole numbers, each for {_EXACT_NAME}", _patterns(_whole)),
        "target_modules": Setting("a list of modules' names: letters, digits, '_' and '.', each once", _names),
        # Others add heads of their own.
        "task_type": _is(None, "CAUSAL_LM"),
    }
)
"""Every key that a configuration may have, and what it may say; a key that is absent has peft's default."""
REQUIRED: Final = ("lora_alpha", "peft_type", "r", "target_modules")
"""Keys whose defaults differ between peft's versions and other readers."""


def parse_settings(raw: bytes) -> LoraSettings:
    """The settings in the bytes of an ``adapter_config.json``.

    Raises:
        EvidenceInvalid: it is not JSON, a name is there twice, or a key or its value is not in the closed list.
    """
    config = load_config(raw)
    for key in REQUIRED:
        if key not in config:
            raise _refusal(f"{CONFIG} has no {key}", SETTINGS[key].expected)
    for key, value in config.items():
        if key not in SETTINGS:
            shown = key if key.isascii() and key.isidentifier() else ascii(key)
            raise _refusal(f"{CONFIG} says {shown:.100}={value!a:.100}", f"only the keys {', '.join(sorted(SETTINGS))}")
        if not SETTINGS[key].fits(value):
            raise _refusal(f"{CONFIG} says {key}={value!a:.100}", f"{key}: {SETTINGS[key].expected}")
    return _settings(config)


def load_config(raw: bytes) -> dict[str, Any]:
    """The object in the bytes of an ``adapter_config.json``, whatever it says.

    ASCII only: peft decodes it by the locale of the machine that it runs on.

    Raises:
        EvidenceInvalid: it is not an object of JSON in ASCII, or a name is there twice.
    """
    try:
        if len(raw) > LARGEST:
            raise ValueError(f"{len(raw)} bytes")
        config = json.loads(raw.decode("ascii"), object_pairs_hook=unambiguous, parse_constant=not_a_number)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{CONFIG} cannot be read: {error}", "JSON in ASCII, every name once") from error
    if not isinstance(config, dict):
        raise _refusal(f"{CONFIG} is not an object", '{"peft_type": "LORA", ...}')
    return config


def read_settings(directory: Path) -> LoraSettings:
    """The settings of the adapter in ``directory``.

    Raises:
        EvidenceInvalid: see :func:`parse_settings`, or there is no such file.
    """
    path = directory / CONFIG
    try:
        with path.open("rb") as stream:
            return parse_settings(stream.read(LARGEST + 1))
    except OSError as error:
        raise _refusal(f"the adapter has no {CONFIG} ({error.strerror})", "an adapter of peft") from error


def _settings(config: Mapping[str, Any]) -> LoraSettings:
    return LoraSettings(
        rank=config["r"],
        alpha=config["lora_alpha"],
        rank_stabilised=config.get("use_rslora", False),
        fan_in_fan_out=config.get("fan_in_fan_out", False),
        targets=frozenset(config["target_modules"]),
        ranks=MappingProxyType({_module_of(key): value for key, value in (config.get("rank_pattern") or {}).items()}),
        alphas=MappingProxyType({_module_of(key): value for key, value in (config.get("alpha_pattern") or {}).items()}),
        base=config.get("base_model_name_or_path"),
        revision=config.get("revision"),
    )


def _refusal(got: str, expected: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        got,
        expected=expected,
        next_step="train with guardrail, or as a plain LoRA of linear layers that applies to every prompt",
    )
