"""Several processes that train one adapter together (``accelerate launch -m guardrail train ...``).

The first does what must be done once (writing, measuring, recording), the others wait for it. One process needs none of
this and pays nothing for it. Not covered: an out-of-memory error in one process, which ends all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from guardrail.errors import InvalidInput

T = TypeVar("T")
LAUNCHED, SHARDS = "ACCELERATE_USE_FSDP", "GUARDRAIL_SHARDS"
REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "launch without --fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "launch without --fsdp_activation_checkpointing, and train with"
    " --gradient-checkpointing",
}


def count() -> int:
    """How many there are, as the launcher tells each."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def shards() -> bool:
    """Whether the launcher was told ``--use_fsdp``: then :mod:`guardrail.train.sharding` shards.

    The word is taken out of the environment, because accelerate and transformers would act on it as well: load the base
    in the first process only, and shard all of it, the head and what is trained included.

    Raises:
        InvalidInput: the launcher was told to offload, or to recompute activations by FSDP's own means.
    """
    if os.environ.pop(LAUNCHED, "false").lower() == "true":
        os.environ[SHARDS] = "true"
    if os.environ.get(SHARDS) != "true" or count() == 1:
        return False
    for option, instead in REFUSED.items():
        if os.environ.get(option, "false").lower() == "true":
            raise InvalidInput(f"{option}=true is not supported", next_step=instead)
    return True


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


def from_first(action: Callable[[], T]) -> T:
    """What ``action`` returns in the first process, in every process; the others do not run it."""
    if count() == 1:
        return action()
    from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

    wait()
    box: list[Any] = [action() if is_first() else None]
    broadcast_object_list(box)
    found: T = box[0]
    return found


def _state() -> Any:
    import torch

    shards()  # before accelerate reads the environment
    from accelerate import PartialState  # type: ignore[import-untyped]

    return PartialState(cpu=not torch.cuda.is_available())
