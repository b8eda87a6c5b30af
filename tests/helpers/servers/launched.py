"""``guardrail`` in one of several launched processes, watched from inside. Not a test file.

``unit/train/test_processes.py`` starts it. Each process leaves ``watched-RANK.json``: how many there were, which share
of the base's weights it held while it trained, and the digest of the base's weights before and after. With
``DIE_AT=STEP`` in the environment it ends there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from guardrail.cli import main
from guardrail.train import processes
from guardrail.train.methods.der import Der


def _frozen(base: Any) -> list[Any]:
    return [parameter for parameter in base.model.parameters() if not parameter.requires_grad]


def _digest(base: Any) -> str:
    whole = hashlib.sha256()
    for parameter in _frozen(base):
        whole.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _held(base: Any) -> float:
    """Shards know how large the whole is; what they hold is their local part."""
    local: int = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in _frozen(base))
    whole: int = sum(parameter.numel() for parameter in _frozen(base))
    return local / whole


def _watch() -> None:
    stage: Any = import_module("guardrail.train.stage")
    fit: Any = import_module("guardrail.train.fit")
    whole, inside = stage.fit, fit._fit
    seen: dict[str, Any] = {"processes": processes.count()}

    def inner(base: Any, *args: Any) -> Any:
        trained = inside(base, *args)
        seen["held"] = _held(base)
        return trained

    def outer(base: Any, *args: Any, **kwargs: Any) -> Any:
        seen["before"] = _digest(base)
        trained = whole(base, *args, **kwargs)
        seen["after"] = _digest(base)
        Path(f"watched-{os.environ['RANK']}.json").write_text(json.dumps(seen))
        return trained

    fit._fit, stage.fit = inner, outer


def _die_at(step: int) -> None:
    losses = Der.losses

    def dying(self: Any, given: Any) -> Any:
        if given.index == step:
            os._exit(9)
        return losses(self, given)

    setattr(Der, "losses", dying)  # noqa: B010


if __name__ == "__main__":
    _watch()
    if "DIE_AT" in os.environ:
        _die_at(int(os.environ["DIE_AT"]))
    sys.argv[0] = "guardrail"
    main()
