"""Loads a base model by Hub id or local directory, safely: safetensors only, no remote code, revisions pinned.

What comes back names exactly which base it is: the digest covers weights, configuration, tokenizer and template, so
that evidence about one base can never be used for another of the same name. Nothing here assumes an architecture.
Not covered: quantised loading, several devices.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.records import ModelRef

logger = logging.getLogger(__name__)
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt")


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
        InvalidInput: no such directory or model, no safetensors weights, or not a causal language model.
        ServiceUnavailable: the Hub did not answer.
    """
    directory, commit = locate(str(name), revision)
    device = pick_device()
    config = _read(lambda: AutoConfig.from_pretrained(directory), directory, "config.json")
    tokenizer = _read(lambda: AutoTokenizer.from_pretrained(directory), directory, "a tokenizer")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = _read(
        lambda: AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True),
        directory,
        "safetensors weights of a causal language model",
    )
    _prepare_tokenizer(tokenizer)
    ref = ModelRef(
        name=str(name) if commit else directory.name,
        revision=commit,
        digest=base_digest(directory),
        architecture=(config.architectures or [type(model).__name__])[0],
        dtype=str(dtype).removeprefix("torch."),
        template=template_kind(tokenizer),
    )
    return BaseModel(model.to(device).eval(), tokenizer, ref, directory, device)


def locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The local directory of a base, downloading a Hub snapshot where needed, and its commit if it has one."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve(), None
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InvalidInput(f"no such directory: {name}", expected="a model directory or a Hub id such as org/model")
    return _snapshot(name, revision)


def base_digest(directory: Path) -> str:
    """The digest of a base's files: weights, configuration, tokenizer, template (nothing else in the directory)."""
    names = sorted({p.relative_to(directory).as_posix() for pattern in PATTERNS for p in directory.glob(pattern)})
    return _base_digest(directory, tuple((n, (directory / n).stat().st_mtime_ns) for n in names))


@functools.lru_cache(maxsize=8)
def _base_digest(directory: Path, stamps: tuple[tuple[str, int], ...]) -> str:
    real = [(name, (directory / name).resolve()) for name, _ in stamps]  # Hub snapshots link into a blob store
    entries = [manifest(path.parent, [path.name])[0].model_copy(update={"path": name}) for name, path in real]
    return manifest_digest(tuple(entries))


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
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InvalidInput(
                "the base's tokenizer has neither a pad nor an end-of-text token",
                next_step="add eos_token to its tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token


def _read(load: Any, directory: Path, what: str) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"cannot load the base model in {directory}: {reason}",
            expected=f"a Hugging Face model directory with {what}",
            next_step="pickled weights (*.bin) are refused: convert them to safetensors first",
        ) from error


def _snapshot(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS))
    except RepositoryNotFoundError as error:
        raise InvalidInput(
            f"no model {name!r} on the Hub", next_step="check the id, or log in if it is gated"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ServiceUnavailable(
            f"cannot fetch {name!r} from the Hugging Face Hub: {type(error).__name__}",
            next_step="check the network, or give a local directory",
        ) from error
    directory = Path(path)
    return directory, directory.name
