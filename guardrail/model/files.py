"""Which files make a base model, their one digest, and digests of its parts; nothing is loaded, and torch not imported.

The one digest is what evidence and policies name. The parts are for people: where two bases differ, they show whether
it is the weights, the configuration, the tokenizer or the chat template, wherever the template is written.
Not covered: whether these files load (``load.py``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import digest, manifest, manifest_digest, sha256
from guardrail.home import expanded

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.txt", "*.tiktoken")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TEMPLATES = ("*.jinja", "chat_template.json")
TOKENIZER = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "vocab*.json",
    "merges*",
    "special_tokens_map.json",
    "added_tokens.json",
)
TOKENIZER_CONFIG, TEMPLATE_KEY = "tokenizer_config.json", "chat_template"

PartName = Literal["weights", "configuration", "tokenizer", "template"]


@dataclass(frozen=True)
class Part:
    """One part of a base: the digest of its files (or of what a file says of it), and which files those are."""

    name: PartName
    sha256: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Fingerprint:
    """What names a base: the name it is loaded by, its commit where it has one, its digest, and its parts' digests."""

    name: str
    revision: str | None
    sha256: str
    parts: tuple[Part, ...]


def fingerprint(name: str, revision: str | None = None) -> Fingerprint:
    """Of a local directory, or of a Hub id, whose snapshot is downloaded.

    Raises:
        InvalidInput: no such directory or model, or it holds no weights in safetensors.
        ServiceUnavailable: the Hub did not answer.
    """
    directory, commit = locate(name, revision)
    found = parts(directory)
    if not found[0].files:
        raise InvalidInput(f"{directory} holds no *.safetensors", expected="a base model's directory or Hub id")
    return Fingerprint(name if commit else directory.name, commit, base_digest(directory), found)


def parts(directory: Path) -> tuple[Part, ...]:
    """Weights, configuration, tokenizer and template. Every file that the base's digest covers is in one of them.

    A template that stands in ``tokenizer_config.json`` counts as template and not as tokenizer.
    """
    files: dict[PartName, list[str]] = {"weights": [], "configuration": [], "tokenizer": [], "template": []}
    for name in hashed_files(directory):
        files[_part_of(name)].append(name)
    plain, template = _split_config(directory)
    found = [_part(directory, name, names, plain, template) for name, names in files.items()]
    return tuple(found)


def _part_of(path: str) -> PartName:
    name = path.rpartition("/")[2]
    kinds: tuple[tuple[PartName, tuple[str, ...]], ...] = (
        ("weights", WEIGHTS),
        ("template", TEMPLATES),
        ("tokenizer", TOKENIZER),
    )
    return next((kind for kind, known in kinds if any(fnmatch(name, pattern) for pattern in known)), "configuration")


def _part(directory: Path, name: PartName, files: Iterable[str], plain: str, template: str) -> Part:
    said = {path: plain if path == TOKENIZER_CONFIG and plain else _sha256(directory, path) for path in files}
    if name == "template" and template:
        said[f"{TOKENIZER_CONFIG}:{TEMPLATE_KEY}"] = template
    return Part(name, digest(dict(said)), tuple(said))


def _split_config(directory: Path) -> tuple[str, str]:
    """Digests of what ``tokenizer_config.json`` says besides the template, and of the template; empty if it cannot be
    told."""
    try:
        said = json.loads((directory / TOKENIZER_CONFIG).read_bytes())
        template = said.pop(TEMPLATE_KEY, None)
        texts = [json.dumps(value, sort_keys=True).encode() for value in (said, template)]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return "", ""
    return sha256(texts[0]), "" if template is None else sha256(texts[1])


def _sha256(directory: Path, name: str) -> str:
    real = (directory / name).resolve()
    return manifest(real.parent, [real.name])[0].sha256


def locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The local directory of a base, downloading a Hub snapshot where needed, and its commit if it has one."""
    path = expanded(name)
    if path.is_dir():
        return path.resolve(), None
    if path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InvalidInput(f"no such directory: {name}", expected="a model directory or a Hub id such as org/model")
    return _snapshot(name, revision)


def base_digest(directory: Path) -> str:
    """The digest of a base's files: weights, configuration, tokenizer, template (nothing else in the directory)."""
    stats = ((name, (directory / name).stat()) for name in hashed_files(directory))
    return _base_digest(directory, tuple((name, (s.st_size, s.st_mtime_ns, s.st_ctime_ns)) for name, s in stats))


@functools.lru_cache(maxsize=8)
def _base_digest(directory: Path, stamps: tuple[tuple[str, tuple[int, int, int]], ...]) -> str:
    real = [(name, (directory / name).resolve()) for name, _ in stamps]  # Hub snapshots link into a blob store
    entries = [manifest(path.parent, [path.name])[0].model_copy(update={"path": name}) for name, path in real]
    return manifest_digest(tuple(entries))


def hashed_files(directory: Path) -> list[str]:
    """The files that the digest covers, sorted; nothing else may shape the model."""
    found = {path for pattern in PATTERNS for path in directory.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(directory).as_posix() for path in found)


def _snapshot(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        path = snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS))
    except HFValidationError as error:
        raise InvalidInput(
            f"no such directory, and not a Hub id: {name!r}", expected="a model directory or a Hub id such as org/model"
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidInput(f"the model {name!r} on the Hub has no revision {revision!r}") from error
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
