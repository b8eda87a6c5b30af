"""The MLflow run of a decision, denials too: tags, metrics and the evidence, found again by the evidence's digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.evidence.bundle import EVIDENCE as FOLDER
from guardrail.registry.checks import Examined
from guardrail.registry.store import sqlite_path
from guardrail.registry.tags import EVIDENCE, metrics, tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500
PAGE = "report.html"


@dataclass(frozen=True)
class Run:
    """A run of this evidence, and whether everything is in it."""

    run_id: str
    finished: bool


def experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """The id of the experiment, made if absent; a SQLite store keeps its files beside the database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if tracking_uri.startswith("sqlite:///"):
        folder = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
        location = (sqlite_path(tracking_uri).resolve().parent / "mlartifacts" / folder).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def find_or_start(client: MlflowClient, experiment_id: str, examined: Examined) -> Run:
    """The run of this evidence; a finished one before one that was cut off."""
    found = client.search_runs([experiment_id], f"tags.`{EVIDENCE}` = '{examined.evidence_sha256}'")
    for run in sorted(found, key=lambda run: (run.info.status != "FINISHED", run.info.start_time)):
        return Run(str(run.info.run_id), run.info.status == "FINISHED")
    decision = examined.decision
    name = f"{decision.verdict.value} {decision.model} {decision.manifest[:8]}"
    values = tags(decision, examined.evidence_sha256, examined.signed_by)
    run = client.create_run(experiment_id, tags=values, run_name=name)
    return Run(str(run.info.run_id), finished=False)


def fill(client: MlflowClient, run_id: str, examined: Examined, directory: Path, page: str) -> None:
    """Metrics (always at the decision's time, so that doing it again changes nothing), evidence files and the page."""
    from mlflow.entities import Metric

    when = int(examined.decision.decided_at.timestamp() * 1000)
    values = [Metric(key, value, when, 0) for key, value in metrics(examined.evaluation).items()]
    for start in range(0, len(values), BATCH):
        client.log_batch(run_id, metrics=values[start : start + BATCH])
    client.log_artifacts(run_id, str(directory / FOLDER), FOLDER)
    if page:
        client.log_text(run_id, page, PAGE)
