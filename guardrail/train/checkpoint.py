"""Checkpoints of a training run: whole or absent, named by what the run was made from, refused where they were changed.

transformers writes the optimiser, schedule, random states and its own progress; we add the adapter, the method's state
and, last, a seal: the digest of every file. A checkpoint without a seal was cut off while it was written and is not
used; one whose files differ from its seal is refused.
"""

from __future__ import annotations

from pathlib import Path

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest, manifest, manifest_digest

SEAL, JOB = "seal", "job"


def prepare(directory: Path, job: str) -> None:
    """Make ``directory`` hold checkpoints of ``job`` (a digest) and of nothing else."""
    mark = directory / JOB
    if directory.is_symlink() or nofollow.read(mark) != job.encode():
        nofollow.remove(directory)
    write_atomically(mark, job.encode())


def seal(checkpoint: Path) -> None:
    """Say that the checkpoint is whole."""
    write_atomically(checkpoint / SEAL, _contents(checkpoint).encode())


def latest(directory: Path) -> Path | None:
    """The newest checkpoint that is whole; those that were cut off are removed.

    Raises:
        EvidenceInvalid: a checkpoint's files are not those that were sealed.
    """
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if not (checkpoint / SEAL).exists():
            nofollow.remove(checkpoint)
            continue
        check(checkpoint, next_step=f"delete {directory} to train from the start")
        return checkpoint
    return None


def check(checkpoint: Path, next_step: str) -> None:
    """Raise EvidenceInvalid where the files are not those that were sealed."""
    if nofollow.read(checkpoint / SEAL) != _contents(checkpoint).encode():
        raise EvidenceInvalid(
            f"{checkpoint} is not what the training run saved",
            expected="files whose digests are those of its seal",
            next_step=next_step,
        )


def _contents(checkpoint: Path) -> str:
    files = [entry for entry in manifest(checkpoint) if entry.path != SEAL]
    return digest({"files": manifest_digest(tuple(files))})
