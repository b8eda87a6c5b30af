"""Several processes that train one adapter together (``accelerate launch -m guardrail train ...``).

The first does what must be done once (writing, measuring, recording), the others wait for it. One process needs none of
this and pays nothing for it. Not covered: an out-of-memory error in one process, which ends all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def count() -> int:
    """How many there are, as the launcher tells each."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Until all are here; also joins them, and chooses each one's device."""
    if count() > 1:
        _state().wait_for_everyone()


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block, then the others (who find its results on the disk)."""
    if count() == 1:
        yield
        return
    with _state().main_process_first():
        yield


def _state() -> Any:
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    return PartialState(cpu=not torch.cuda.is_available())
