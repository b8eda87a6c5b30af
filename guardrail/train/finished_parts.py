"""Finished adapters of a run's parts, kept until the run is done: a merge that is killed while its second part trains
does not train the first again, and the same plain training is not repeated for another method in the same work folder.

Only for methods whose training is plain fine-tuning of the part's rows (``Method.plain``): for those, rows, settings,
shape and base decide the adapter. A kept part that does not match its seal is refused, as a checkpoint is.

Not covered: protection against whoever can write the file (the run directory is trusted while it is worked in).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.evidence.digest import digest
from guardrail.model.chat import Encoded
from guardrail.model.load import BaseModel
from guardrail.records import LossPoint
from guardrail.train import checkpoint, processes
from guardrail.train.fit import Trained
from guardrail.train.trainer import Settings

TRAINED = "trained.json"


def place(work: Path, base: BaseModel, rows: Sequence[Encoded], settings: Settings, lora: Mapping[str, Any]) -> Path:
    """Where the adapter that plain training makes of ``rows`` is kept below ``work``."""
    decides = {key: value for key, value in asdict(settings).items() if key != "checkpoint_steps"}
    key = digest(
        {
            "base": base.ref.model_dump(),
            "device": str(base.device),
            "settings": decides,
            "lora": {**lora, "targets": list(lora["targets"])},
            "rows": [[list(r.prompt), list(r.answer)] for r in rows],
        }
    )
    return work / "parts" / key


def keep(kept: Path, adapter: Path, trained: Trained) -> None:
    """Copy a finished adapter to ``kept``; it appears whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=kept.parent) as scratch:
        copy = Path(scratch) / "part"
        shutil.copytree(adapter, copy / "adapter", symlinks=True)
        told = {**asdict(trained), "loss": [point.model_dump() for point in trained.loss]}
        write_atomically(copy / TRAINED, json.dumps(told).encode())
        checkpoint.seal(copy)
        copy.rename(kept)


def find(kept: Path, target: Path) -> Trained | None:
    """Copy the adapter that is kept there to ``target``; None where there is none.

    Raises:
        EvidenceInvalid: its files are not those that were sealed.
    """
    if not kept.exists():
        return None
    checkpoint.check(kept, next_step=f"delete {kept} to train it again")
    if processes.is_first():
        nofollow.remove(target)
        shutil.copytree(kept / "adapter", target, symlinks=True)
    processes.wait()
    told = json.loads(nofollow.read(kept / TRAINED) or b"")
    return Trained(**{**told, "loss": tuple(LossPoint(**point) for point in told["loss"])})
