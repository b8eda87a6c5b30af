"""Loads a base model by Hub id or local directory, safely: safetensors only, no remote code, revisions pinned.

What comes back names exactly which base it is: the digest covers weights, configuration, tokenizer and template, so
that evidence about one base can never be used for another of the same name. transformers is shown only the files that
the digest covers, and a tensor that the files lack is an error: transformers would fill it at random. Nothing here
assumes an architecture. Not covered: quantised loading, several devices.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from guardrail import logs
from guardrail.errors import InvalidInput
from guardrail.model.embedded_tokens import require_embedded
from guardrail.model.files import base_digest, hashed_files, locate
from guardrail.records import ModelRef

__all__ = ["ADAPTER", "BaseModel", "base_digest", "load_base", "pick_device", "template_kind"]
logger = logs.logger(__name__)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Old checkpoints carry what the code now computes: causal masks and rotary frequencies.
COMPUTED = re.compile(r"(attn|attention)\.(bias|masked_bias|causal_mask)$|\.inv_freq$")


@dataclass(frozen=True)
class BaseModel:
    """A base model ready to use; ``directory`` is where its files lie locally."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: ModelRef
    directory: Path
    device: torch.device

    @property
    def context(self) -> int:
        """The most tokens that a row may have, prompt and answer together."""
        limits = [getattr(self.model.config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        return int(min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=2048))


def load_base(name: str | Path, revision: str | None = None) -> BaseModel:
    """Load ``name``: a local directory, or a Hub id (then the revision is resolved to a commit and pinned).

    Raises:
        InvalidInput: no such directory or model, not a causal language model in safetensors, or one whose weights do
            not fit its configuration; an adapter lies beside it; the tokenizer has no end-of-text token, or tokens
            for which the model has no embedding.
        ServiceUnavailable: the Hub did not answer.
    """
    directory, commit = locate(str(name), revision)
    _check_files(directory)
    device = pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with _only_hashed(directory) as view:
        with _reading(directory, view, "config.json"):
            config = AutoConfig.from_pretrained(view, trust_remote_code=False)
        with _reading(directory, view, "a tokenizer"):
            tokenizer = _tokenizer(view)
        with _reading(directory, view, "safetensors weights of a causal language model"):
            model = _weights(view, dtype)
    model.name_or_path = model.config.name_or_path = tokenizer.name_or_path = str(directory)
    _prepare_tokenizer(tokenizer)
    require_embedded(tokenizer, int(model.get_input_embeddings().weight.shape[0]))
    ref = ModelRef(
        name=str(name) if commit else directory.name,
        revision=commit,
        digest=base_digest(directory),
        architecture=(config.architectures or [type(model).__name__])[0],
        dtype=str(dtype).removeprefix("torch."),
        template=template_kind(tokenizer),
    )
    return BaseModel(model.to(device).eval(), tokenizer, ref, directory, device)


@contextmanager
def _only_hashed(directory: Path) -> Iterator[Path]:
    """A folder of links to the files that the digest covers: no other file can shape the model."""
    with TemporaryDirectory() as view:
        for name in hashed_files(directory):
            link = Path(view, name)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((directory / name).resolve())
        yield Path(view)


@functools.cache
def pick_device() -> torch.device:
    """CUDA where there is one; otherwise the CPU, said once."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    logger.warning("no CUDA device: running on the CPU in float32")
    return torch.device("cpu")


def template_kind(tokenizer: PreTrainedTokenizerBase) -> Literal["own", "fallback"]:
    """Whether the tokenizer brings a chat template or guardrail's plain one is used."""
    return "own" if getattr(tokenizer, "chat_template", None) else "fallback"


def _prepare_tokenizer(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None:
        raise InvalidInput(
            "the base's tokenizer has no end-of-text token: an answer could not end",
            next_step="add eos_token to its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def _check_files(directory: Path) -> None:
    """Refuse an adapter (transformers would attach it without a word) and shards that the digest would not cover."""
    for name in ADAPTER:
        if (directory / name).exists():
            raise InvalidInput(
                f"an adapter lies in the base model's directory: {directory / name}",
                expected="a base model without adapter",
                next_step="give the base without the adapter, or merge the adapter into it first",
            )
    for path in sorted(directory.glob("*.safetensors.index.json")):
        _check_index(path)


def _check_index(path: Path) -> None:
    try:
        shards = set(json.loads(path.read_bytes())["weight_map"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInput(
            f"cannot read {path}: {type(error).__name__}: {error}", expected='{"weight_map": {TENSOR: FILE}}'
        ) from error
    for shard in sorted(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise InvalidInput(
                f"{path} puts weights into {shard!r}",
                expected="*.safetensors files beside the index, which the base's digest covers",
                next_step="move the shards beside the index and name them there without a folder",
            )
        if not (path.parent / shard).is_file():
            raise InvalidInput(f"{path} names {shard}, which is not there", next_step="download the base again")


def _tokenizer(view: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(view, trust_remote_code=False)
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("yes", "no"))
    if yes == no:  # where the vocabulary is not there, transformers makes one of special tokens only
        raise ValueError("its tokenizer has no vocabulary (tokenizer.json is missing?)")
    return tokenizer


def _weights(view: Path, dtype: torch.dtype) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        view,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are reported by name instead of only logged
    )
    model, report = loaded  # what output_loading_info adds is not in the types of transformers
    wrong = [
        _listed("missing", report["missing_keys"]),
        _listed("of another shape", (key for key, *_ in report["mismatched_keys"])),
        _listed("with no place in the model", (key for key in report["unexpected_keys"] if _needed(model, key))),
        *report["error_msgs"],
    ]
    if any(wrong):
        raise ValueError("its weights do not fit its config.json; tensors " + "; ".join(filter(None, wrong)))
    return model


def _listed(what: str, keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(names[:5])}{more}" if names else ""


def _needed(model: PreTrainedModel, key: str) -> bool:
    """Whether a tensor that the model left unread belongs to a part that it has (not to an extra head, say)."""
    parts = {name for part in (model, model.base_model) for name, _ in part.named_children()}
    return key.partition(".")[0] in parts and not COMPUTED.search(key)


@contextmanager
def _reading(directory: Path, view: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise whatever a broken file leads them to
        text = str(error).replace(str(view), str(directory)).strip() or type(error).__name__
        raise InvalidInput(
            f"cannot load the base model in {directory}: {text.splitlines()[0][:600]}",
            expected=f"a Hugging Face model directory with {what}",
            next_step="pickled weights (*.bin) are refused: convert them to safetensors; otherwise download it again",
        ) from error
