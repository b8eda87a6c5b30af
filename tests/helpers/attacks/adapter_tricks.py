"""Adapters that are not what they were measured as: by setting, by tensor, by file. Not a test file.

Each changes a plain adapter in place, and says what the refusal must name. ``ATTEMPTED`` are those that are also tried
on servers (``bypass_adapter.py``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
Tensors = dict[str, Any]


@dataclass(frozen=True)
class Trick:
    """One change of an adapter's directory; ``answer`` is a regular expression that its refusal holds."""

    name: str
    change: Callable[[Path], object]
    answer: str


def setting(name: str, answer: str = "", **values: Any) -> Trick:
    """A change of the configuration."""

    def change(directory: Path) -> None:
        config = json.loads((directory / CONFIG).read_text())
        (directory / CONFIG).write_text(json.dumps(config | values))

    return Trick(name, change, answer or f"says {next(iter(values))}=")


def removed(key: str) -> Trick:
    """A setting whose default differs between readers."""

    def change(directory: Path) -> None:
        config = json.loads((directory / CONFIG).read_text())
        del config[key]
        (directory / CONFIG).write_text(json.dumps(config))

    return Trick(f"{key} left out", change, f"has no {key}")


def text(name: str, edit: Callable[[str], str | bytes], answer: str) -> Trick:
    """A change of the configuration's bytes."""

    def change(directory: Path) -> None:
        new = edit((directory / CONFIG).read_text())
        (directory / CONFIG).write_bytes(new if isinstance(new, bytes) else new.encode())

    return Trick(name, change, answer)


def tensors(name: str, edit: Callable[[Tensors], object], answer: str) -> Trick:
    """A change of the tensors."""

    def change(directory: Path) -> None:
        found = load_file(directory / WEIGHTS)
        edit(found)
        save_file(found, directory / WEIGHTS)

    return Trick(name, change, answer)


def header(name: str, edit: Callable[[dict[str, Any]], object], answer: str, extra: bytes = b"") -> Trick:
    """A change of the header of the weights, with bytes added behind."""

    def change(directory: Path) -> None:
        raw = (directory / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        entries = json.loads(raw[8 : 8 + size])
        new = edit(entries) or json.dumps(entries)
        assert isinstance(new, str)
        data = raw[8 + size :] + extra
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(new)) + new.encode() + data)

    return Trick(name, change, answer)


def beside(name: str, answer: str = "files are") -> Trick:
    """A file more, which somebody who loads the adapter may read."""
    return Trick(f"{name} beside the adapter", lambda directory: (directory / name).write_text("{}"), answer)


def _other(dtype: Any) -> Callable[[Tensors], object]:
    return lambda t: t.update({key: value.astype(dtype) for key, value in t.items()})


def _duplicated(entries: dict[str, Any]) -> str:
    whole = json.dumps(entries)
    return whole[:-1] + "," + json.dumps({A: entries[B]})[1:]


NESTED = "^(([a-z]+)+.)+$"
ATTEMPTED = (
    setting("applied only after certain tokens", alora_invocation_tokens=[3, 1, 4]),
    setting("applied only after no tokens at all", alora_invocation_tokens=[]),
    setting("weights decomposed (DoRA)", use_dora=True),
    setting("biases trained", bias="all"),
    setting("a bias of its own", lora_bias=True),
    setting("other modules saved", modules_to_save=["lm_head"]),
    setting("tokens trained", trainable_token_indices=[1, 2]),
    setting("layers replicated", layer_replication=[[0, 2], [1, 2]]),
    setting("some layers only", layers_to_transform=[0]),
    setting("modules excluded", exclude_modules=["lm_head"]),
    setting("parameters targeted", target_parameters=["experts.gate"]),
    setting("principal components taken from the base (PiSSA)", init_lora_weights="pissa"),
    setting("base orthogonalised (OLoRA)", init_lora_weights="olora"),
    setting("base quantised (LoftQ)", init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
    setting("base rewritten (CorDA)", init_lora_weights="corda", corda_config={"corda_method": "kpm"}),
    setting("experts routed (Arrow)", arrow_config={"top_k": 1}),
    setting("targets by a regular expression", target_modules=".*q_proj"),
    setting("targets by an endless regular expression", target_modules=NESTED),
    setting("ranks by an endless regular expression", rank_pattern={NESTED: 4}),
    setting("alphas by a name that is the end of others", alpha_pattern={"q_proj": 64}),
    setting("another task, which brings a head", task_type="SEQ_CLS"),
    setting("another kind of adapter", peft_type="LOHA"),
    setting("a setting of a later peft", a_setting_of_2031={"on": True}),
    text("a setting twice", lambda old: old[:-1] + ', "r": 1}', "cannot be read.*'r' is there twice"),
    tensors(
        "tensors of a module that is not targeted",
        lambda t: t.update({k.replace("q_proj", "v_proj"): v for k, v in t.items()}),
        "holds tensors for .*v_proj",
    ),
    tensors("values that are not numbers", lambda t: t[B].fill(np.nan), "not finite"),
    tensors("whole numbers of 8 bits", _other(np.int8), "is of type 'I8'"),
    tensors("numbers of 64 bits", _other(np.float64), "is of type 'F64'"),
    tensors("half an adapter", lambda t: t.pop(B), "only one of"),
    header("a tensor twice", _duplicated, "is there twice"),
)

SETTINGS = (
    *(removed(key) for key in ("r", "lora_alpha", "target_modules", "peft_type")),
    *(
        setting(f"{key} set", f"says {key}=", **{key: {"x": 1}})
        for key in (
            "auto_mapping",
            "eva_config",
            "kasa_config",
            "lora_ga_config",
            "loftq_config",
            "megatron_config",
            "monteclora_config",
            "use_bdlora",
            "velora_config",
            "runtime_config",
        )
    ),
    setting("DoRA by a number", use_dora=1),
    setting("a bias by a number", lora_bias=0),
    setting("rsLoRA by a number", use_rslora=1),
    setting("QALoRA", use_qalora=True),
    setting("a group size", qalora_group_size=8),
    setting("weights tied", ensure_weight_tying=True),
    setting("megatron's core elsewhere", megatron_core="evil"),
    setting("alpha by a string", lora_alpha="8"),
    setting("alpha by a boolean", lora_alpha=True),
    setting("alpha null", lora_alpha=None),
    setting("alpha enormous", lora_alpha=10**400),
    setting("alpha beyond half precision", "the scale", lora_alpha=10**6),
    text("alpha not a number", lambda old: old.replace("8", "NaN"), "cannot be read.*NaN"),
    text("alpha infinite", lambda old: old.replace("8", "-Infinity"), "cannot be read.*Infinity"),
    text("alpha infinite by its exponent", lambda old: old.replace("8", "1e999"), "says lora_alpha=inf"),
    setting("rank zero", r=0),
    setting("rank negative", r=-4),
    setting("rank by a fraction", r=4.0),
    setting("rank by a boolean", r=True),
    setting("another rank", r"A \[4, 4\] and B \[4, 4\]", r=2),
    setting("no targets", target_modules=[]),
    setting("targets null", target_modules=None),
    setting("all targets", target_modules="all-linear"),
    setting("a target twice", target_modules=["q_proj", "q_proj"]),
    setting("a target that is a number", target_modules=["q_proj", 1]),
    setting("a target with a wildcard", target_modules=["q_proj", ".*"]),
    setting("a target with an alternative", target_modules=["q_proj|v_proj"]),
    setting("a target that is empty", target_modules=["q_proj", ""]),
    setting("a target with a newline", target_modules=["q_proj\n"]),
    setting("a target of full-width letters", target_modules=["q_proj", "\uff51_proj"]),
    setting("a target without tensors", "no tensors for v_proj", target_modules=["q_proj", "v_proj"]),
    setting("a target within the adapter", target_modules=["q_proj", "q_proj.base_layer"]),
    setting("no layers transformed", layers_to_transform=[]),
    setting("a layer by its number", layers_to_transform=0),
    setting("layers by a pattern", layers_pattern="layers"),
    setting("excluded by a regular expression", exclude_modules="x"),
    setting("nothing excluded", exclude_modules=[]),
    setting("nothing else saved", modules_to_save=[]),
    setting("tokens of a layer", trainable_token_indices={"embed_tokens": [1]}),
    setting("a rank of a module by its end", rank_pattern={"layers.0.self_attn.q_proj": 4}),
    setting("a rank by a dot that is any letter", rank_pattern={"^model.layers.0.self_attn.q_proj": 4}),
    setting("a rank of no module", "no tensors for model.x", rank_pattern={r"^model\.x": 4}),
    setting("a rank by a string", rank_pattern={r"^model\.layers\.0\.self_attn\.q_proj": "4"}),
    setting("an alpha by a string", alpha_pattern={r"^model\.layers\.0\.self_attn\.q_proj": "4"}),
    setting("an alpha null", alpha_pattern={r"^model\.layers\.0\.self_attn\.q_proj": None}),
    setting("patterns by a list", alpha_pattern=[]),
    *(
        setting(f"initialised as {name!r}", init_lora_weights=name)
        for name in (
            "pissa_niter_4",
            "OLORA",
            "corda",
            "mica",
            "lora_ga",
            "eva",
            "orthogonal",
            "Gaussian",
            False,
            None,
            1,
        )
    ),
    *(setting(f"bias {name!r}", bias=name) for name in ("lora_only", "None", None, False)),
    *(setting(f"kind {name!r}", peft_type=name) for name in ("lora", "ADALORA", "XLORA", None, ["LORA"])),
    setting("dropout of everything", lora_dropout=1.0),
    setting("dropout by a boolean", lora_dropout=False),
    setting("transposed by a string", fan_in_fan_out="False"),
    setting("inference by a string", inference_mode="no"),
    setting("a key in capitals", R=4),
    setting("a key with a space", answer="says 'use_dora '=", **{"use_dora ": True}),
    setting("a key of look-alike letters", answer=r"says 'us\\u0435_dora'=", **{"us\u0435_dora": True}),
    setting("a setting of nothing", a_setting_of_2031=None),
    text("a setting twice by an escape", lambda old: old[:-1] + ', "\\u0072": 1}', "is there twice"),
    text(
        "an object in an object twice", lambda old: old[:-1] + ', "rank_pattern": {"x": 1, "x": 2}}', "is there twice"
    ),
    text("UTF-16", lambda old: old.encode("utf-16"), "cannot be read"),
    text("UTF-8 with a mark", lambda old: old.encode("utf-8-sig"), "cannot be read"),
    text("letters that a locale decodes", lambda old: old.replace("q_proj", "\u00e9"), "cannot be read"),
    text("a list", lambda old: f"[{old}]", "is not an object"),
    text("nested without end", lambda _: "[" * 100_000, "cannot be read"),
    text("nothing", lambda _: "", "cannot be read"),
    text("more than may be", lambda old: old + " " * (5 << 20), "cannot be read"),
)

TENSORS = (
    tensors("no tensors", lambda t: t.clear(), "no tensors"),
    tensors("under the adapter's name", lambda t: t.update({A.replace("A.w", "A.default.w"): t.pop(A)}), "called"),
    tensors("without peft's prefix", lambda t: t.update({A.removeprefix("base_model.model."): t.pop(A)}), "called"),
    tensors("with a space", lambda t: t.update({f"{A} ": t.pop(A)}), "called"),
    tensors("in capitals", lambda t: t.update({A.upper(): t.pop(A)}), "called"),
    tensors("a tensor more of the same module", lambda t: t.update({f"{LAYER}.lora_A.bias": t[A][0]}), "called"),
    tensors("the base's own weight", lambda t: t.update({f"{LAYER}.base_layer.weight": t[A]}), "called"),
    tensors(
        "a layer within the layer",
        lambda t: t.update({k.replace("q_proj", "q_proj.base_layer"): v for k, v in t.items()}),
        "called",
    ),
    tensors(
        "a factor within a factor",
        lambda t: t.update({k.replace("q_proj", "q_proj.lora_A"): v for k, v in t.items()}),
        "called",
    ),
    tensors("a magnitude", lambda t: t.update({f"{LAYER}.lora_magnitude_vector": t[A][0]}), "called"),
    tensors("an embedding", lambda t: t.update({f"{LAYER}.lora_embedding_A": t[A]}), "called"),
    tensors("a saved module", lambda t: t.update({"base_model.model.lm_head.weight": t[A]}), "called"),
    tensors(
        "a path out of the module", lambda t: t.update({A.replace("model.layers", "..layers"): t.pop(A)}), "called"
    ),
    tensors("A of another rank than B", lambda t: t.update({A: t[A][:2]}), r"A \[2, 4\]"),
    tensors("A of one row, which broadcasts", lambda t: t.update({A: t[A][:1]}), r"A \[1, 4\]"),
    tensors("rank 0", lambda t: t.update({A: t[A][:0], B: t[B][:, :0]}), r"A \[0, 4\]"),
    tensors("no inputs", lambda t: t.update({A: t[A][:, :0]}), r"A \[4, 0\]"),
    tensors("one dimension", lambda t: t.update({A: t[A][0]}), r"A \[4\]"),
    tensors("four dimensions", lambda t: t.update({A: t[A][:, :, None, None]}), r"A \[4, 4, 1, 1\]"),
    tensors("two types", lambda t: t.update({A: t[A].astype(np.float16)}), "tensors of types F16, F32"),
    tensors("an infinity", lambda t: t[A].__setitem__((3, 3), -np.inf), "not finite"),
    tensors(
        "an infinity in half precision",
        lambda t: t.update({k: np.full(v.shape, np.inf, np.float16) for k, v in t.items()}),
        "not finite",
    ),
    tensors("truth values", _other(np.bool_), "is of type 'BOOL'"),
    tensors("complex numbers", _other(np.complex64), "is of type 'C64'"),
    header(
        "bfloat16 that is not finite",
        lambda h: h.update({A: {"dtype": "BF16", "shape": [4, 8], "data_offsets": h[A]["data_offsets"]}}) or None,
        "types BF16, F32",
    ),
    header("metadata", lambda h: h.update(__metadata__={"format": "pt", "lora": "x"}), "has the metadata"),
    header("metadata of another framework", lambda h: h.update(__metadata__={"format": "np"}), "has the metadata"),
    header("metadata that is a list", lambda h: h.update(__metadata__=[]), "has the metadata"),
    header("bytes behind", lambda _: None, "of which its tensors fill", extra=b"evil"),
    header("bytes that two tensors share", lambda h: h[A].update(data_offsets=h[B]["data_offsets"]), "a hole or"),
    header(
        "a hole",
        lambda h: [h[k].update(data_offsets=[o + 4 for o in h[k]["data_offsets"]]) for k in h] and None,
        "a hole or",
        extra=b"evil",
    ),
    header("an offset below zero", lambda h: h[A].update(data_offsets=[-64, 0]), "at "),
    header("an offset by a fraction", lambda h: h[A].update(data_offsets=[0.0, 64.0]), "at "),
    header("a shape by truth values", lambda h: h[A].update(shape=[True, 16]), "the shape"),
    header("a shape that is not its bytes", lambda h: h[A].update(shape=[4, 5]), "64 bytes for"),
    header("a shape by a string", lambda h: h[A].update(shape="44"), "the shape"),
    header("a shape of numbers beyond any file", lambda h: h[A].update(shape=[10**4000] * 8), "the shape"),
    header("a shape of a thousand dimensions", lambda h: h[A].update(shape=[4, 4] + [1] * 998), "the shape"),
    header("a key more", lambda h: h[A].update(offset=3), "describes the tensor"),
    header("a key less", lambda h: h[A].pop("shape") and None, "describes the tensor"),
    header("a tensor that is null", lambda h: h.update({A: None}), "describes the tensor"),
    header("a type that is unknown", lambda h: h[A].update(dtype="F8_E4M3"), "is of type"),
    header("a type in small letters", lambda h: h[A].update(dtype="f32"), "is of type"),
    header("a type that is a list", lambda h: h[A].update(dtype=["F32"]), "is of type"),
    header("a header that is a list", lambda h: json.dumps([h]), "not an object"),
    header("a header after a space", lambda h: " " + json.dumps(h), "not an object"),
    header("a header nested without end", lambda _: '{"a":' * 50_000, "cannot be read"),
    Trick(
        "a header longer than the file",
        lambda d: (d / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
        "has a header of",
    ),
    Trick(
        "a header longer than may be",
        lambda d: (d / WEIGHTS).write_bytes(struct.pack("<Q", (1 << 24) + 8) + b" " * ((1 << 24) + 9)),
        "has a header of",
    ),
    Trick("an empty file", lambda d: (d / WEIGHTS).write_bytes(b""), "has 0 bytes"),
    Trick("half a file", lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-8]), "tensors fill"),
    Trick("no weights", lambda d: (d / WEIGHTS).unlink(), "cannot be read|files are"),
)

FILES = (
    beside("chat_template.jinja"),
    beside("tokenizer.json"),
    beside("config.json"),
    beside("model.safetensors"),
    beside("adapter_model.safetensors.index.json"),
    beside("README.md"),
)
TRICKS = (*ATTEMPTED, *SETTINGS, *TENSORS)
