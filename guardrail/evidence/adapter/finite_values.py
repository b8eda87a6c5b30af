"""Whether every value of a safetensors file is a finite number, read in chunks: memory stays at a few megabytes.

A value is not finite where all bits of its exponent are set (IEEE 754, 2019, 3.4; bfloat16 has float32's exponent), so
the bits are compared and no type of numpy is needed for bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.adapter.safetensors_header import TensorEntry

CHUNK: Final = 1 << 22


class _Bits(NamedTuple):
    integer: str
    exponent: int


_BITS: Final = {"F32": _Bits("<u4", 0x7F800000), "F16": _Bits("<u2", 0x7C00), "BF16": _Bits("<u2", 0x7F80)}


def require_finite(path: Path, tensors: tuple[TensorEntry, ...]) -> None:
    """No tensor of the file holds NaN or an infinity.

    Raises:
        EvidenceInvalid: one does, or the file ends before it should.
    """
    try:
        with path.open("rb") as stream:
            wrong = next((tensor.name for tensor in tensors if not _finite(stream, tensor)), "")
    except OSError as error:
        raise EvidenceInvalid(f"{path.name} cannot be read ({error})") from error
    if wrong:
        raise EvidenceInvalid(
            f"the tensor {wrong!a:.200} in {path.name} holds values that are not finite",
            expected="finite numbers",
            next_step="train again: the adapter is damaged, or training diverged",
        )


def _finite(stream: BinaryIO, tensor: TensorEntry) -> bool:
    import numpy as np

    integer, exponent = _BITS[tensor.dtype]
    stream.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        chunk = stream.read(min(CHUNK, left))
        values = np.frombuffer(chunk, dtype=integer) if len(chunk) == min(CHUNK, left) else None
        if values is None or bool(((values & exponent) == exponent).any()):
            return False
        left -= len(chunk)
    return True
