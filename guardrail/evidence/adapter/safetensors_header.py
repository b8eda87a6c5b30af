"""What a safetensors file holds, read from its header: names, shapes, types and places of its tensors, without torch.

    8 bytes: N, little-endian | N bytes of JSON: {NAME: {dtype, shape, data_offsets}, "__metadata__": {...}} | values

Source: huggingface/safetensors, README, "Format". Stricter than the library, so that no two readers see two files:
every name once, nothing but the three keys, values that follow one another from the first byte to the last, and no
metadata but what names the framework. Not covered: what the tensors are for, and their values (``finite_values.py``).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guardrail.errors import EvidenceInvalid

LARGEST_HEADER: Final = 1 << 24
"""Bytes: room for some 100,000 tensors, far below what parsing JSON could be made to take."""
ITEM_SIZE: Final = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a value of each type that an adapter may have: those that peft's float32 holds without rounding."""
LARGEST_FILE: Final = 1 << 40
MOST_DIMENSIONS: Final = 8
METADATA: Final = (None, {"format": "pt"})
_KEYS: Final = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: ``begin`` and ``end`` are offsets within the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The tensors of the file, in the order of their values.

    Raises:
        EvidenceInvalid: it cannot be read, is not canonical as the module says, or holds another type of value.
    """
    try:
        with path.open("rb") as stream:
            size = _header_size(stream.read(8), path)
            raw = stream.read(size)
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unambiguous, parse_constant=not_a_number)
    except (OSError, ValueError, RecursionError) as error:
        raise _refusal(path, f"cannot be read ({error})") from error
    if not raw.startswith(b"{") or not isinstance(entries, dict):
        raise _refusal(path, "has a header that is not an object")
    if (metadata := entries.pop("__metadata__", None)) not in METADATA:
        raise _refusal(path, f"has the metadata {metadata!a:.200}")
    tensors = [_entry(path, name, entry, 8 + size) for name, entry in entries.items()]
    return _contiguous(path, sorted(tensors, key=lambda tensor: tensor.begin), 8 + size)


def unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names are there once: of two, some readers take the first value, others the last.

    Raises:
        ValueError: a name is there twice.
    """
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!a} is there twice")
        found[name] = value
    return found


def not_a_number(name: str) -> object:
    """What JSON does not know, but Python's reader does: NaN, Infinity, -Infinity.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not JSON")


def _header_size(first: bytes, path: Path) -> int:
    if len(first) != 8:
        raise _refusal(path, f"has {len(first)} bytes")
    size = int(struct.unpack("<Q", first)[0])
    if not size <= min(LARGEST_HEADER, path.stat().st_size - 8):
        raise _refusal(path, f"has a header of {size} bytes in a file of {path.stat().st_size}")
    return size


def _entry(path: Path, name: str, entry: object, data: int) -> TensorEntry:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise _refusal(path, f"describes the tensor {name!a:.200} by {entry!a:.200}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise EvidenceInvalid(
            f"the tensor {name!a:.200} in {path.name} is of type {dtype!a:.40}",
            expected=" or ".join(ITEM_SIZE),
            next_step="save the adapter in float32, float16 or bfloat16",
        )
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2):
        raise _refusal(path, f"gives the tensor {name!a:.200} the shape {shape!a:.100} at {offsets!a:.100}")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_SIZE[dtype]:
        raise _refusal(path, f"gives the tensor {name!a:.200} {offsets[1] - offsets[0]} bytes for {shape} of {dtype}")
    return TensorEntry(name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _counts(value: object) -> bool:
    """A short list of whole numbers from 0 to what a file may have; ``True`` is none."""
    if not isinstance(value, list) or len(value) > MOST_DIMENSIONS:
        return False
    return all(type(number) is int and 0 <= number <= LARGEST_FILE for number in value)


def _contiguous(path: Path, tensors: list[TensorEntry], data: int) -> tuple[TensorEntry, ...]:
    end = data
    for tensor in tensors:
        if tensor.begin != end:
            raise _refusal(path, f"leaves a hole or an overlap before the tensor {tensor.name!a:.200}")
        end = tensor.end
    if end != path.stat().st_size:
        raise _refusal(path, f"has {path.stat().st_size} bytes, of which its tensors fill {end}")
    return tuple(tensors)


def _refusal(path: Path, found: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"{path.name} {found}",
        expected="safetensors as the library writes them: every tensor once, values without holes, no metadata but the"
        " format",
        next_step="save the adapter again with guardrail or peft",
    )
