"""What stages leave beside their records, given to the next stage only as it was recorded."""

from __future__ import annotations

from pathlib import Path

from guardrail.data.quarantine import CLEAN
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import file_sha256, manifest, manifest_digest
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, DataReport
from guardrail.registry.verify.adapter_config import require_fitting


def clean_file(run: Run, record: DataReport) -> Path:
    """The rows that training may read, checked against the record.

    Raises:
        EvidenceInvalid: they are not what the data stage wrote.
    """
    if not holds_clean_rows(run, record):
        raise EvidenceInvalid(
            f"{run.path / 'data' / CLEAN} is not what the data stage wrote",
            next_step="run guardrail data validate again",
        )
    return run.path / "data" / CLEAN


def holds_clean_rows(run: Run, record: DataReport) -> bool:
    """Whether the rows that training may read are there, as the data stage wrote them."""
    path = run.path / "data" / CLEAN
    return path.exists() and file_sha256(path) == record.training_digest


def adapter_dir(run: Run, record: AdapterRecord) -> Path:
    """Where the adapter lies, checked against its record and against what any adapter may hold.

    Raises:
        EvidenceInvalid: its files are not those that were recorded, or not those of a plain LoRA for its base.
    """
    directory = run.path / "adapter"
    if not directory.is_dir() or manifest_digest(manifest(directory)) != record.manifest:
        raise EvidenceInvalid(
            f"{directory} is not the adapter that its record names",
            next_step=f"delete {run.path / 'adapter.json'} and train again",
        )
    require_fitting(directory, record.base, (file.path for file in record.files))
    return directory
