"""A training shown in MLflow while it goes on (``--live-uri``): which run it is, and how that ends.

The MLflow run's name is kept in the run's ``work`` directory, beside the checkpoints: a training that goes on from a
checkpoint goes on in its MLflow run. Of several processes the first one tells. What is shown is no evidence and no
stage reads it. Not covered: the trials of ``--method auto`` and the second part of a merge, which are not shown; steps
that are taken again because memory ran out, which are shown twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from guardrail import logs, nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import GuardrailError
from guardrail.evidence.digest import sha256
from guardrail.records import Frozen, Sha256
from guardrail.registry.mlflow.mlflow_client import probe
from guardrail.registry.record.live_run import LiveRun, Resumed, start
from guardrail.train import processes
from guardrail.train.observers import Tell
from guardrail.train.trainer import Settings

FILE = "live.json"
logger = logs.logger(__name__)


class Shown(Frozen):
    """Which MLflow run shows which training; ``store`` is the digest of the address, which may hold a password."""

    inputs: Sha256
    store: Sha256
    run_id: str


@dataclass(frozen=True)
class Training:
    """What is shown of a training besides its numbers."""

    inputs: str
    method: str
    base: str
    settings: Settings

    @property
    def params(self) -> dict[str, str]:
        """The parameters of the MLflow run."""
        s = self.settings
        return {
            "method": self.method,
            "base": self.base,
            "seed": str(s.seed),
            "epochs": f"{s.epochs:g}",
            "batch_size": str(s.batch_size),
            "learning_rate": f"{s.learning_rate:g}",
        }


def require_reachable(uri: str | None) -> None:
    """Ask the server or store, if one is named, before anything is trained.

    Raises:
        ServiceUnavailable: it does not answer.
        InvalidInput: there is none.
    """
    if uri and processes.is_first():
        with _named():
            probe(uri, write=True)


@contextmanager
def shown(training: Training, uri: str | None, work: Path) -> Iterator[Tell | None]:
    """Gives what takes the numbers of a training, or None where it is shown nowhere.

    The MLflow run ends with the block: FINISHED, KILLED where it was interrupted, else FAILED. What could not be sent
    is told in one warning then.

    Raises:
        ServiceUnavailable: the server does not answer at the start; later it is let alone.
    """
    if not uri or not processes.is_first():
        yield _keep_quiet if uri else None
        return
    with _named():
        live = start(uri, training.inputs, training.params, _resumed(work / FILE, training.inputs, uri))
    note = Shown(inputs=training.inputs, store=sha256(uri.encode()), run_id=live.run_id)
    write_atomically(work / FILE, note.model_dump_json().encode())
    try:
        yield live.tell
    except KeyboardInterrupt:
        _end(live, "KILLED")
        raise
    except BaseException:
        _end(live, "FAILED")
        raise
    _end(live, "FINISHED")


def _keep_quiet(step: int, values: Mapping[str, float]) -> None:
    """What a process that is not the first tells."""
    del step, values


def _end(live: LiveRun, status: str) -> None:
    if reason := live.end(status):
        logger.warning("%s", reason)


def _resumed(path: Path, inputs: str, uri: str) -> Resumed | None:
    """The MLflow run that was noted, if it is in this store."""
    try:
        note = Shown.model_validate_json(nofollow.read(path) or b"")
    except ValidationError:
        return None
    return Resumed(note.run_id, note.inputs == inputs) if note.store == sha256(uri.encode()) else None


@contextmanager
def _named() -> Iterator[None]:
    """Errors that say which option they are about."""
    try:
        yield
    except GuardrailError as error:
        raise type(error)(
            f"--live-uri: {error.got}",
            expected=error.expected,
            next_step="correct --live-uri or try again; without it training goes on all the same",
        ) from error
