"""Memory: how much a training took at most, and smaller batches where it runs out."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from guardrail.errors import InvalidInput

T = TypeVar("T")
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Let what is measured from now on not contain what was before; without effect where the system cannot."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            FORGET.write_text("5")
        except OSError:
            return


def peak() -> int:
    """Bytes: of the CUDA device, else of the process (base and libraries included), since :func:`forget_peak`."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def halving(rows: int, action: Callable[[int], T]) -> T:
    """What ``action`` returns for ``rows`` at a time, or for half as many as often as memory runs out.

    Raises:
        InvalidInput: not even one row fits.
    """
    while True:
        try:
            return action(rows)
        except torch.OutOfMemoryError as error:
            if rows == 1:
                raise InvalidInput(
                    f"out of memory with one row: {str(error).splitlines()[0]}",
                    next_step="use shorter rows, a smaller base or a larger device",
                ) from error
            rows //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
