"""Another run, read as untrusted input: its records belong together and to its files, or it is refused.

What the digests of a run say is checked here, and that what is read are plain files. Not covered: whether the run may
be used for anything (:mod:`guardrail.pipeline.merge.merge_inputs`), and whether its records are true. Whoever wrote the
directory could have put any adapter there and any records beside it; the journal in it catches accidents, not
attackers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guardrail import nofollow
from guardrail.data.quarantine import CLEAN
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.agreement import require_agreement
from guardrail.evidence.digest import digest, file_sha256, manifest, manifest_digest
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, DataReport


@dataclass(frozen=True)
class Another:
    """A run that has trained: where it lies and what it recorded."""

    path: Path
    record: AdapterRecord
    report: DataReport

    @property
    def adapter(self) -> Path:
        """The adapter's directory."""
        return self.path / "adapter"

    @property
    def rows(self) -> Path:
        """The rows that it was trained on."""
        return self.path / "data" / CLEAN


def read_another(path: Path) -> Another:
    """The run at ``path``, whole.

    Raises:
        InvalidInput: it is no directory.
        EvidenceMissing: it has not come as far as an adapter.
        EvidenceInvalid: its records are not what its stages wrote, or do not belong together or to its files.
    """
    if not path.is_dir():
        raise InvalidInput(
            f"{path} is no directory",
            expected="the directory of a run that has trained",
            next_step="check the path: it is --run of the other training",
        )
    nofollow.require_regular(path)
    run = Run(path)
    found = Another(path, run.require("adapter", AdapterRecord), run.require("data-report", DataReport))
    _check_bindings(found)
    require_files(found.adapter, found.record.manifest)
    if not found.rows.exists() or file_sha256(found.rows) != found.report.training_digest:
        raise EvidenceInvalid(
            f"{found.rows} is not what that run's data stage wrote",
            next_step="run guardrail data validate and train again in that run",
        )
    return found


def holds(directory: Path, expected: str) -> bool:
    """Whether the files in ``directory`` are those whose manifest has this digest."""
    return directory.is_dir() and manifest_digest(manifest(directory)) == expected


def require_files(directory: Path, expected: str, source: Path | None = None) -> None:
    """Refuse an adapter (or a copy of the one in ``source``) whose files are not those of its record.

    Raises:
        EvidenceInvalid: a file is missing, changed or added.
    """
    if not holds(directory, expected):
        raise EvidenceInvalid(
            f"{source or directory} is not the adapter that its run's record names",
            expected="the files that were recorded, unchanged",
            next_step="delete that run's adapter.json and train it again",
        )


def _check_bindings(found: Another) -> None:
    record, report = found.record, found.report
    require_agreement(
        (
            ("the adapter's data report", record.data, digest(report)),
            ("the adapter's training rows", record.training_digest, report.training_digest),
            *([] if report.plan and record.plan else [("the data report's policy", report.policy, record.policy)]),
            ("the data report's base model", report.base, record.base.digest),
            ("the adapter's manifest", record.manifest, manifest_digest(record.files)),
        ),
        whose=f"{found.path}: ",
        parts="records that were made from one another",
        next_step="run that run's stages again, from the first that changed",
    )
