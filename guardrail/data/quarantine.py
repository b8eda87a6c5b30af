"""Writes what the data stage decided: ``clean.jsonl`` for training, ``quarantine.jsonl`` for a person to look at.

Both are written atomically, quarantine first: a crash in between leaves no clean file without its counterpart.
``quarantine.jsonl`` holds every flagged sample with its scores and reasons, also those that were left in (with
``"quarantined": false``). These files hold texts; records never do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from guardrail.atomic import write_atomically
from guardrail.data.dataset import Dataset, write_samples
from guardrail.data.validate import Flagged, Validated
from guardrail.evidence.digest import canonical
from guardrail.printable import json_text
from guardrail.records import Frozen
from guardrail.samples import Sample

CLEAN = "clean.jsonl"
QUARANTINE = "quarantine.jsonl"


class QuarantineFiles(Frozen):
    """Where the two files lie."""

    clean: Path
    quarantine: Path


def write(directory: Path, dataset: Dataset, validated: Validated) -> QuarantineFiles:
    """Write both files into ``directory`` (made if it is not there).

    Raises:
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    files = QuarantineFiles(clean=directory / CLEAN, quarantine=directory / QUARANTINE)
    write_atomically(files.quarantine, b"".join(line + b"\n" for line in _lines(dataset, validated)))
    write_samples(files.clean, validated.kept)
    return files


def _lines(dataset: Dataset, validated: Validated) -> Iterator[bytes]:
    flags: dict[str, list[Flagged]] = {}
    for flagged in validated.flagged:
        flags.setdefault(flagged.sample_id, []).append(flagged)
    kept = {sample.id for sample in validated.kept}
    for sample in dataset.samples:
        if sample.id in flags:
            entry = canonical(_entry(sample, flags[sample.id], quarantined=sample.id not in kept))
            yield json_text(entry.decode()).encode()  # people are sent here to look


def _entry(sample: Sample, flags: list[Flagged], *, quarantined: bool) -> dict[str, object]:
    return {
        "id": sample.id,
        "line": sample.line,
        "quarantined": quarantined,
        "reasons": [{"detector": f.detector, "score": f.score, "reason": f.reason} for f in flags],
        "messages": [message.model_dump() for message in sample.messages],
    }
