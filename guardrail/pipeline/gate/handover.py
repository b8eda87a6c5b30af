"""Separate jobs: the run of whoever trained becomes a candidate in MLflow, and a candidate becomes an evaluator's run.

The evaluator's directory appears only when it is whole and checked. Not covered: the rows (they stay with whoever
trained), tasks that were files there and suites that the policy withholds: the evaluator names its own.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput, ServiceUnavailable
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import LoadedPolicy
from guardrail.records import AdapterRecord, DataReport
from guardrail.registry.record import candidates
from guardrail.registry.record.candidates import Candidate, Pushed
from guardrail.registry.verify.verify import workplace


@dataclass(frozen=True)
class Pulled:
    """A candidate that was laid out as a run; ``left_out`` are its tasks that were files where it was trained."""

    candidate: Candidate
    left_out: tuple[str, ...]


def push_candidate(path: Path, *, tracking_uri: str, now: datetime, artifact_location: str | None = None) -> Pushed:
    """Hand on the adapter of the run at ``path`` with its ticket, records and statements; what it is found by.

    Raises:
        EvidenceMissing: the run has no ticket, or a stage has not run or not signed.
        EvidenceInvalid: records, files and statements do not belong together; or MLflow would have them written
            elsewhere than through the server, beside the store, or below ``artifact_location``.
        ServiceUnavailable: MLflow does not answer; push again to go on.
    """
    run = Run(path)
    with run.locked(), workplace() as directory:
        run.require("data-report", DataReport)
        run.require("adapter", AdapterRecord)
        for name in candidates.FILES:
            data = nofollow.read(path / name)
            if data is None:
                raise EvidenceMissing(f"{path} holds no {name}", next_step=_maker(name, path))
            write_atomically(directory / name, data)
        here = {"policy_source": candidates.POLICY, "suites": ()}  # no path of this machine
        config = _config(directory).model_copy(update=here)
        write_atomically(directory / candidates.CONFIG, config.model_dump_json().encode())
        shutil.copytree(path / candidates.FOLDER, directory / candidates.FOLDER, symlinks=True)
        return candidates.push(directory, tracking_uri=tracking_uri, now=now, artifact_location=artifact_location)


def pull_candidate(
    name: str,
    path: Path,
    *,
    tracking_uri: str,
    now: datetime,
    policy: LoadedPolicy | None = None,
    base: str | None = None,
    revision: str | None = None,
    model_id: str | None = None,
) -> Pulled:
    """Make the candidate whose adapter has the digest ``name`` a run at ``path``.

    Args:
        name: the digest of the adapter's manifest.
        path: the run's directory; it must not hold anything.
        tracking_uri: the MLflow server or store.
        now: the time, in UTC.
        policy: the evaluator's own copy of the policy, which must be the candidate's; suites lie relative to it.
        base: where the evaluator has the base, if not where the candidate says.
        revision: the commit of ``base``.
        model_id: the logged model that is meant, where several say that they are this candidate.

    Raises:
        InvalidInput: the directory is not empty, or there is no such candidate.
        EvidenceInvalid: the candidate does not hold together, or was made under another policy.
        ServiceUnavailable: MLflow or the disk does not work now.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidInput(f"{path} is not empty", expected="a new directory for the candidate's run")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            fresh = Path(folder) / "run"
            candidate = candidates.fetch(name, fresh, tracking_uri=tracking_uri, now=now, model_id=model_id).candidate
            _require_same(candidate.policy, policy)
            given = _config(fresh)
            config = _local(given, str(policy.source if policy else path / candidates.POLICY), base, revision)
            _lay_out(Run(fresh), candidate, config)
            fresh.rename(path)
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot write to {path}: {error.strerror}", next_step="free space or choose another directory"
        ) from error
    return Pulled(candidate, tuple(task for task in given.tasks if task not in config.tasks))


def _require_same(carried: LoadedPolicy, own: LoadedPolicy | None) -> None:
    if own is not None and own.digest != carried.digest:
        raise EvidenceInvalid(
            f"the candidate was made under the policy {carried.digest}",
            expected=f"{own.digest}, which is {own.source}",
            next_step="have it trained under this policy, or evaluate it under its own",
        )


def _config(directory: Path) -> RunConfig:
    """What the run was started with; read from what may be anyone's file."""
    try:
        return RunConfig.model_validate_json(nofollow.read(directory / candidates.CONFIG) or b"")
    except ValidationError as error:
        raise EvidenceInvalid(f"the candidate's {candidates.CONFIG} is not a run's configuration") from error


def _local(given: RunConfig, policy: str, base: str | None, revision: str | None) -> RunConfig:
    """The same for this machine: files that the candidate names here would be other files."""
    return RunConfig(
        policy_source=str(Path(policy).resolve()),
        base=base or given.base,
        revision=revision or (None if base else given.revision),
        tasks=tuple(task for task in given.tasks if "=" not in task),
    )


def _lay_out(run: Run, candidate: Candidate, config: RunConfig) -> None:
    """Records as a stage would have written them, journal and all; the ticket and the statements are there already."""
    run.start(candidate.policy, config)
    run.write("data-report", candidate.data)
    run.write("adapter", candidate.adapter)


def _maker(name: str, path: Path) -> str:
    """The command that makes a file of a candidate."""
    command = {
        candidates.TICKET: "guardrail data validate DATA --gate URI",
        candidates.DATA_SIGNED: "guardrail data validate DATA --sign-key KEY",
        candidates.TRAIN_SIGNED: "guardrail train --sign-key KEY",
    }.get(name, "guardrail data validate DATA")
    return f"{command} --run {path}"
