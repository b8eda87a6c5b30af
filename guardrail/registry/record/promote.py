"""Promotion: every decision becomes an MLflow run, and only a PASSED one a model version with its alias.

The order is what makes a crash harmless: evidence is checked before anything is written, files are complete and read
back through the registry (``read_back.py``) before a version names them, what the registry then holds is verified as a
stranger would, and the alias comes last. Everything is found again by the evidence's digest, so promoting twice gives
one version, and a killed promotion is finished by promoting again. Not covered: two promotions of the same evidence at
the same moment (both may make a version; each is fully backed by evidence), and who may write to the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.errors import AwaitingApproval, EvidenceInvalid, InvalidInput
from guardrail.evidence.bundle import Bundle, write
from guardrail.evidence.digest import digest
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey, public_of
from guardrail.records import Decision, RegistryRecord, Verdict
from guardrail.registry.http.address import require_one_server, run_page
from guardrail.registry.mlflow.destinations import Destinations, destinations
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.read.local_reader import LocalReader
from guardrail.registry.read.reader import Reader, Spec
from guardrail.registry.read.rest_reader import RestReader
from guardrail.registry.record import decision_run as runs
from guardrail.registry.record import registered_model as models
from guardrail.registry.verify.evidence_checks import Examined, admissible, examine
from guardrail.registry.verify.verify import verify_with, workplace

if TYPE_CHECKING:
    from mlflow import MlflowClient

STEPS = (
    "run",
    "run-artifacts",
    "run-end",
    "registered-model",
    "logged-model",
    "model-artifacts",
    "finalize",
    "version",
    "verify",
    "alias",
)
OnStep = Callable[[str], None]
EXPERIMENT = "guardrail"


class CandidateWaitsError(AwaitingApproval):
    """The gated server admitted the evidence, and persons must approve; what it rests on is in this MLflow run.

    ``run_id`` is the run, in ``experiment``; ``run_page`` is where MLflow shows it, empty where it has no page.
    """

    def __init__(self, error: AwaitingApproval, experiment: str, noted: Noted) -> None:
        super().__init__(error.got, expected=error.expected, next_step=error.next_step)
        self.experiment, self.run_page, self.run_id = experiment, noted.run_page, noted.run_id


def promote(
    bundle: Bundle,
    *,
    tracking_uri: str,
    private_key: PrivateKey,
    now: datetime,
    experiment: str = EXPERIMENT,
    page: str = "",
    artifact_location: str | None = None,
    on_step: OnStep | None = None,
) -> RegistryRecord:
    """Record a decision in MLflow and, if it PASSED and is valid, register the adapter with its evidence.

    Args:
        bundle: the sealed evidence and the adapter's directory.
        tracking_uri: the MLflow server or store.
        private_key: the key that sealed the bundle; only its public half is used.
        now: the time at which the evidence must be valid.
        experiment: the MLflow experiment of the runs.
        page: the decision as HTML for people, kept with the MLflow run; it is no evidence.
        artifact_location: where artifacts may go besides the store's own place (``registry/mlflow/destinations.py``);
            unset: what the environment says.
        on_step: called with a name of ``STEPS`` before each step.

    Returns:
        What the registry holds. ``version`` is None after a denial; ``alias`` is None where it was left alone,
        because it already points at a later version.

    Raises:
        CandidateWaitsError: the gated server admitted it, and persons must approve.
        EvidenceInvalid: the evidence does not hold together, has expired, or is not what the registry gives back; or
            MLflow would have it written to a place that nobody named.
        ServiceUnavailable: MLflow or the disk does not work now; promote again to go on.
        InvalidInput: MLflow refuses a name, did not receive what was written, or is not the registry's server, too.
    """
    require_one_server(tracking_uri)
    public_keys = (public_of(private_key),)
    with workplace() as directory:
        write(bundle, directory)
        examined = examine(directory, public_keys)
        if examined.decision.verdict is Verdict.PASSED:
            admissible(examined.decision, now, examined.valid_until)
        _check_name(examined.decision.model)
        to = destinations(tracking_uri, artifact_location)
        noted = Noted()
        try:
            with client(tracking_uri, write=True, also=(to.named,)) as opened:
                source = _source(opened, tracking_uri)
                job = _Job(
                    opened, source, to, examined, directory, experiment, tracking_uri, page, on_step or _ignore, noted
                )
                run_id = _log_run(job)
                if examined.decision.verdict is not Verdict.PASSED:
                    return _record(job, run_id)
                return _register(job, run_id, public_keys, now)
        except AwaitingApproval as error:
            raise CandidateWaitsError(error, experiment, noted) from error


def require_ready(tracking_uri: str, *, experiment: str = EXPERIMENT, artifact_location: str | None = None) -> None:
    """Ask for everything that a promotion needs of MLflow before there is anything to promote.

    Its experiment is made where it is not there, so that credentials which may not write are found out now.

    Raises:
        ServiceUnavailable: MLflow does not answer, or its store cannot be written.
        InvalidInput: MLflow refuses.
        EvidenceInvalid: artifacts would be written to a place that nobody named.
    """
    require_one_server(tracking_uri)
    to = destinations(tracking_uri, artifact_location)
    with client(tracking_uri, write=True, also=(to.named,)) as opened:
        runs.require_destination(opened, runs.experiment(opened, tracking_uri, experiment), to)


def inputs(evidence_sha256: str, tracking_uri: str, experiment: str) -> str:
    """The digest that a RegistryRecord is made from."""
    return digest({"envelope": evidence_sha256, "tracking_uri": tracking_uri, "experiment": experiment})


@dataclass
class Noted:
    """The MLflow run, for whoever must be told of it when the registry does not make a version."""

    run_id: str = ""
    run_page: str = ""


@dataclass(frozen=True)
class _Job:
    client: MlflowClient
    source: Reader
    destinations: Destinations
    examined: Examined
    directory: Path
    experiment: str
    tracking_uri: str
    page: str
    step: OnStep
    noted: Noted

    @property
    def decision(self) -> Decision:
        return self.examined.decision


def _log_run(job: _Job) -> str:
    job.step("run")
    experiment_id = runs.experiment(job.client, job.tracking_uri, job.experiment)
    runs.require_destination(job.client, experiment_id, job.destinations)
    run = runs.find_or_start(job.client, job.tracking_uri, experiment_id, job.examined)
    job.noted.run_id, job.noted.run_page = run.run_id, run_page(job.tracking_uri, experiment_id, run.run_id)
    if run.finished:
        return run.run_id
    job.step("run-artifacts")
    runs.fill(job.client, run.run_id, job.examined, job.directory, job.page, job.destinations)
    job.step("run-end")
    runs.require_received(job.client, job.tracking_uri, run.run_id, job.directory, job.page)
    job.client.set_terminated(run.run_id)
    return run.run_id


def _register(job: _Job, run_id: str, public_keys: Sequence[PublicKey], now: datetime) -> RegistryRecord:
    name, alias = job.decision.model, job.decision.alias
    job.step("registered-model")
    models.ensure_registered(job.client, name)
    version = models.find_version(job.client, name, job.examined) or _new_version(job, run_id)
    job.step("verify")
    spec = Spec(name=name, version=version)
    found = verify_with(job.source, spec, public_keys, now)
    if found.evidence_sha256 != job.examined.evidence_sha256:
        raise EvidenceInvalid(f"{spec} holds other evidence than its tag says", next_step="remove that version")
    job.step("alias")
    moved = models.set_alias(job.client, name, alias, version)
    return _record(job, run_id, version=version, model_id=found.model_id, alias=alias if moved else None)


def _new_version(job: _Job, run_id: str) -> str:
    job.step("logged-model")
    experiment_id = str(job.client.get_run(run_id).info.experiment_id)
    model = models.find_or_start(job.client, job.source, experiment_id, run_id, job.examined)
    if not model.finished:
        job.step("model-artifacts")
        models.upload(job.client, model.model_id, job.directory, job.destinations)
        job.step("finalize")
        models.require_received(job.client, job.source, model.model_id, job.directory, job.tracking_uri)
        job.client.finalize_logged_model(model.model_id, "READY")
    job.step("version")
    return models.create_version(job.client, job.decision.model, run_id, model.model_id, job.examined)


def _record(
    job: _Job, run_id: str, *, version: str | None = None, model_id: str | None = None, alias: str | None = None
) -> RegistryRecord:
    evidence = job.examined.evidence_sha256
    return RegistryRecord(
        inputs=inputs(evidence, job.tracking_uri, job.experiment),
        verdict=job.decision.verdict,
        decision=digest(job.decision),
        envelope=evidence,
        experiment=job.experiment,
        run_id=run_id,
        model=job.decision.model,
        alias=alias,
        version=version,
        model_id=model_id,
        attempt=job.decision.attempt,
    )


def _source(opened: MlflowClient, tracking_uri: str) -> Reader:
    """What reads back: a server over REST, as whoever verifies reads it."""
    return RestReader(tracking_uri) if tracking_uri.startswith(("http://", "https://")) else LocalReader(opened)


def _check_name(name: str) -> None:
    if set(name) & set("'\"`"):
        raise InvalidInput(f"the model's name {name!r} holds a quotation mark", expected="a name without one")


def _ignore(step: str) -> None:
    """Nobody watches."""
