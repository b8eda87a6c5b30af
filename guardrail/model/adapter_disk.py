"""Writing an adapter's files: what a full disk does to safetensors and to plain files is one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from guardrail.errors import ServiceUnavailable


@contextmanager
def writing_adapter(directory: Path) -> Iterator[None]:
    """Files of an adapter are written to ``directory``.

    Raises:
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ServiceUnavailable(
            f"cannot write the adapter to {directory}: {error}",
            expected="a writable disk with room",
            next_step="free space, then run the same command again",
        ) from error
