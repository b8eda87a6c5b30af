"""The MLflow run of a decision, denials too: tags, metrics and the evidence, found again by the evidence's digest."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.evidence.bundle import EVIDENCE as FOLDER
from guardrail.registry.mlflow.destinations import Destinations
from guardrail.registry.mlflow.mlflow_client import sqlite_path
from guardrail.registry.mlflow.tags import EVIDENCE, metrics, tags
from guardrail.registry.read.local_reader import entries, fetch
from guardrail.registry.read.reader import Files, StoredFile, walk
from guardrail.registry.read.rest_reader import RestRunFiles
from guardrail.registry.record import read_back
from guardrail.registry.record.earlier_attempt import MOST, usable
from guardrail.registry.verify.evidence_checks import Examined

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500
PAGE = "report.html"


@dataclass(frozen=True)
class DecisionRun:
    """A run of this evidence, and whether everything is in it."""

    run_id: str
    finished: bool


def experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """The id of the experiment, made if absent; a SQLite store keeps its files beside the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if tracking_uri.startswith("sqlite:///"):
        folder = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
        location = (sqlite_path(tracking_uri).resolve().parent / "mlartifacts" / folder).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        made = client.get_experiment_by_name(name)  # somebody else's first promotion may have been faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or made is None:
            raise
        return str(made.experiment_id)


def require_destination(client: MlflowClient, experiment_id: str, destinations: Destinations) -> None:
    """Refuse an experiment whose artifacts go where nobody said that they may, before anything is made in it.

    Raises:
        EvidenceInvalid: they do.
    """
    destinations.require(str(client.get_experiment(experiment_id).artifact_location))


def find_or_start(client: MlflowClient, tracking_uri: str, experiment_id: str, examined: Examined) -> DecisionRun:
    """The run that holds exactly this evidence; a finished one before one that was cut off."""
    where = f"tags.`{EVIDENCE}` = '{examined.evidence_sha256}'"
    found = client.search_runs([experiment_id], where, order_by=["attributes.start_time DESC"])
    left = [DecisionRun(str(run.info.run_id), run.info.status == "FINISHED") for run in found]
    ours = tuple(entry for entry in examined.files if entry.path.startswith(f"{FOLDER}/"))
    for run in sorted(left, key=lambda run: not run.finished)[:MOST]:
        if usable(_run_files(client, tracking_uri), run.run_id, ours, finished=run.finished):
            return run
    decision = examined.decision
    name = f"{decision.verdict.value} {decision.model} {decision.manifest[:8]}"
    values = tags(decision, examined.evidence_sha256, examined.signed_by)
    made = client.create_run(experiment_id, tags=values, run_name=name)
    return DecisionRun(str(made.info.run_id), finished=False)


def fill(
    client: MlflowClient, run_id: str, examined: Examined, directory: Path, page: str, destinations: Destinations
) -> None:
    """Metrics (always at the decision's time, so that doing it again changes nothing), evidence files and the page.

    Raises:
        EvidenceInvalid: the run's artifacts go where nobody said that they may.
    """
    from mlflow.entities import Metric

    files = destinations.repository(str(client.get_run(run_id).info.artifact_uri))

    when = int(examined.decision.decided_at.timestamp() * 1000)
    values = [Metric(key, value, when, 0) for key, value in metrics(examined.evaluation).items()]
    for start in range(0, len(values), BATCH):
        client.log_batch(run_id, metrics=values[start : start + BATCH])
    files.log_artifacts(str(directory / FOLDER), FOLDER)
    if page:
        with tempfile.TemporaryDirectory(prefix="guardrail-") as place:
            (Path(place) / PAGE).write_text(page, encoding="utf-8")
            files.log_artifact(str(Path(place) / PAGE))


def require_received(client: MlflowClient, tracking_uri: str, run_id: str, directory: Path, page: str) -> None:
    """The evidence and the page are in the run for whoever asks the registry.

    Raises:
        InvalidInput: they are not.
    """
    written = {f"{FOLDER}/{path}": size for path, size in read_back.sizes(directory / FOLDER).items()}
    shown = {PAGE: len(page.encode())} if page else {}
    location = str(client.get_run(run_id).info.artifact_uri)
    read_back.require_received(
        _listed(_plain_files(client, tracking_uri), run_id), written | shown, tracking_uri, location
    )


def _listed(files: Files, run_id: str) -> Iterator[StoredFile]:
    """The evidence and the page; other artifacts are whoever's logged them."""
    yield from walk(files, run_id, FOLDER)
    yield from (entry for entry in files.listing(run_id, "") if entry.path == PAGE)


def _run_files(client: MlflowClient, tracking_uri: str) -> Files:
    return _OurFiles(_plain_files(client, tracking_uri))


def _plain_files(client: MlflowClient, tracking_uri: str) -> Files:
    remote = tracking_uri.startswith(("http://", "https://"))
    return RestRunFiles(tracking_uri) if remote else _StoredRunFiles(client)


class _OurFiles:
    """The evidence in a run, and what would be in the way of the page; other artifacts are whoever's logged them."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        found = self._files.listing(root, directory)
        return tuple(e for e in found if directory or e.path == FOLDER or (e.path == PAGE and e.is_dir))

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        return self._files.fetch(root, path, target, limit)


class _StoredRunFiles:
    """The artifacts of a run in a store that is no server."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        return entries(self._client.list_artifacts(root, directory or None))

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        return fetch(str(self._client.get_run(root).info.artifact_uri), path, target, limit)
