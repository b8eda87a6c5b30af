"""Handing a trained adapter to whoever evaluates it, by way of MLflow: a logged model that is no proposal yet.

    policy.yaml, run.json, ticket.json       what the run was started with
    data-report.json, data.dsse.json         the data stage's record and statement
    adapter.json, train.dsse.json            the training stage's
    adapter/                                 the adapter's files

It is found by the digest of the adapter's manifest (tag ``guardrail.candidate``): the newest that checks, or by the id
that push gives. Whoever may write may give anything the tag, so all of them are looked at, the small files first, and
of several with the same training statement the first that was there: a copy is always later than what it copies.
Nothing that a registry gives back is believed: :func:`check` runs before anything is handed over and again after it
was fetched.
Not covered: whose signatures the statements carry (the gated server asks), and ``run.json``, which the pipeline reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from guardrail.errors import EvidenceInvalid, EvidenceMissing, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.agreement import require_agreement
from guardrail.evidence.bundle import adapter_files, stage_file
from guardrail.evidence.chain.bound_records import bound_of
from guardrail.evidence.chain.expected_statement import ExpectedStatement, differs
from guardrail.evidence.digest import canonical, digest, manifest, manifest_digest, sha256
from guardrail.evidence.envelope import LARGEST, unverified_payload
from guardrail.evidence.statements.tickets import Ticket
from guardrail.policy.load import LoadedPolicy, load_policy_bytes
from guardrail.policy.stage_plans import foreign
from guardrail.records import AdapterRecord, DataReport, FileDigest, Frozen
from guardrail.registry.mlflow.destinations import Destinations, destinations
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.mlflow.tags import PREFIX
from guardrail.registry.read.pull import pull, require_free
from guardrail.registry.read.reader import MODEL_SOURCE, Reader, download, walk
from guardrail.registry.record import decision_run as runs
from guardrail.registry.record.registered_model import require_received, upload
from guardrail.registry.verify.adapter_config import require_fitting
from guardrail.registry.verify.verify import reader, workplace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

EXPERIMENT = "guardrail"
TAG = PREFIX + "candidate"
MOST = 1000
"""So many are looked at under one name; more are given up, and the one that is meant must be named by its id."""
POLICY, CONFIG, TICKET, DATA, ADAPTER, FOLDER = (
    "policy.yaml",
    "run.json",
    "ticket.json",
    "data-report.json",
    "adapter.json",
    "adapter",
)
DATA_SIGNED, TRAIN_SIGNED = stage_file("data"), stage_file("train")
FILES = (POLICY, CONFIG, TICKET, DATA, ADAPTER, DATA_SIGNED, TRAIN_SIGNED)
SHA256 = re.compile("[0-9a-f]{64}")
AnyFrozen = TypeVar("AnyFrozen", bound=Frozen)


@dataclass(frozen=True)
class Candidate:
    """A candidate's directory whose parts belong together.

    ``carried`` is the digest of all of its files, ``trained`` that of what the training stage stated: it binds all else
    but ``run.json``.
    """

    policy: LoadedPolicy
    ticket: Ticket
    data: DataReport
    adapter: AdapterRecord
    carried: str
    trained: str


@dataclass(frozen=True)
class Pushed:
    """A candidate in MLflow: the digest that it is found by, and the id of its logged model."""

    digest: str
    model_id: str


@dataclass(frozen=True)
class Fetched:
    """A candidate that checks, and the logged model that it came from."""

    candidate: Candidate
    model_id: str


def check(directory: Path, now: datetime) -> Candidate:
    """Everything that is carried, checked against one another.

    Raises:
        EvidenceMissing: a file is not there.
        EvidenceInvalid: a file too many, unreadable or too large, or the parts do not belong together.
        InvalidInput: the policy cannot be read.
    """
    return _checked(directory, now, adapter_files(directory / FOLDER))


def _checked(directory: Path, now: datetime, adapters: tuple[FileDigest, ...] | None) -> Candidate:
    """The same, where the adapter's manifest is ``adapters``; None: where it is as recorded, whatever lies there."""
    files = _files(directory)
    policy = load_policy_bytes((directory / POLICY).read_bytes(), POLICY)
    ticket, data = _read(directory, TICKET, Ticket), _read(directory, DATA, DataReport)
    adapter = _read(directory, ADAPTER, AdapterRecord)
    _require_bound(policy, ticket, data, adapter, adapter.files if adapters is None else adapters)
    if adapters is not None:
        require_fitting(directory / FOLDER, adapter.base, (file.path for file in adapter.files))
    _require_stated(directory, policy, ticket, data, adapter, now)
    trained = sha256(unverified_payload((directory / TRAIN_SIGNED).read_bytes()))
    return Candidate(policy, ticket, data, adapter, manifest_digest((*files, *adapter.files)), trained)


def push(directory: Path, *, tracking_uri: str, now: datetime, artifact_location: str | None = None) -> Pushed:
    """Store the candidate in ``directory``, unless it is what :func:`fetch` gives already; what it is found by.

    Args:
        directory: the candidate.
        tracking_uri: the MLflow server or store.
        now: the time at which its statements must be valid.
        artifact_location: where artifacts may go besides the store's own place; unset: what the environment says.

    Raises:
        EvidenceInvalid: see :func:`check`; or MLflow would have it written to a place that nobody named.
        ServiceUnavailable: MLflow does not answer; push again.
    """
    candidate = check(directory, now)
    name = candidate.adapter.manifest
    found = _given(name, tracking_uri, now)
    if found is not None and found.candidate.carried == candidate.carried:
        return Pushed(name, found.model_id)
    to = destinations(tracking_uri, artifact_location)
    with client(tracking_uri, write=True, also=(to.named,)) as opened:
        experiment_id = runs.experiment(opened, tracking_uri, EXPERIMENT)
        runs.require_destination(opened, experiment_id, to)
        with reader(tracking_uri) as source:
            return Pushed(name, _store(opened, source, experiment_id, name, directory, to))


def fetch(name: str, directory: Path, *, tracking_uri: str, now: datetime, model_id: str | None = None) -> Fetched:
    """Make ``directory`` the newest candidate whose adapter has this digest and that checks.

    Whoever may write to MLflow may give anything the tag, so what does not check is passed over.

    Args:
        name: the digest of the adapter's manifest.
        directory: where it is to be; not there before.
        tracking_uri: the MLflow server or store.
        now: the time, in UTC.
        model_id: the logged model that is meant, as push gives it; only that one is looked at.

    Raises:
        InvalidInput: the name is no digest, there is no such candidate, or the directory is there already.
        EvidenceInvalid: none that is there holds; what the last that was looked at is, see :func:`check`.
        ServiceUnavailable: MLflow or the disk does not work now.
    """
    if not SHA256.fullmatch(name):
        raise InvalidInput(f"{name!a} is no digest", expected="64 hexadecimal digits, as candidate push prints them")
    if model_id is not None and not MODEL_SOURCE.fullmatch(f"models:/{model_id}"):
        raise InvalidInput(f"{model_id!a} is no logged model", expected="m-…, as candidate push prints it")
    require_free(directory)
    found = [model_id] if model_id is not None else _in_order(name, tracking_uri, now)
    for one in found:
        try:
            return Fetched(pull(directory, partial(_fetched, name, one, tracking_uri, now)), one)
        except ServiceUnavailable:  # an older one must not stand in for one that could not be read
            raise
        except GuardrailError as failed:
            error = failed
    raise error


def _fetched(name: str, model_id: str, tracking_uri: str, now: datetime, place: Path) -> Candidate:
    with reader(tracking_uri) as source:
        download(source, model_id, place, _most(_glance(source, model_id, name, now)))
    return check(place, now)


def _in_order(name: str, tracking_uri: str, now: datetime) -> list[str]:
    """Every candidate of this name whose small files hold: those that were pushed last first, copies last.

    Raises:
        InvalidInput: there is no candidate of this name.
        GuardrailError: what is wrong with the newest, where none holds.
    """
    with client(tracking_uri, write=False) as opened:
        listed = _listed(opened, name)
    if not listed:
        raise InvalidInput(f"there is no candidate {name}", next_step="guardrail candidate push --run DIR")
    alike: dict[str, list[str]] = {}
    wrong: GuardrailError | None = None
    with reader(tracking_uri) as source:
        for model_id in listed:
            try:
                trained = _glance(source, model_id, name, now).trained
                alike[trained] = [*alike.pop(trained, []), model_id]
            except ServiceUnavailable:
                raise
            except GuardrailError as error:
                wrong = error
    if not alike and wrong is not None:
        raise wrong
    return [model_id for models in reversed(alike.values()) for model_id in models]


def _glance(source: Reader, model_id: str, name: str, now: datetime) -> Candidate:
    """What a candidate says of itself, checked without its adapter's files, of which only names and sizes are asked."""
    with workplace() as place:
        present = {entry.path for entry in source.listing(model_id, "")}
        if missing := sorted({*FILES, FOLDER} - present):
            raise EvidenceMissing(f"the candidate holds no {missing[0]}", expected=", ".join((*FILES, FOLDER)))
        for file in FILES:
            source.fetch(model_id, file, place / file, LARGEST)
        (place / FOLDER).mkdir()
        found = _checked(place, now, None)
    if found.adapter.manifest != name:
        raise EvidenceInvalid(f"the candidate holds the adapter {found.adapter.manifest}", expected=name)
    sizes = {f"{FOLDER}/{file.path}": file.size for file in found.adapter.files}
    there = {entry.path: entry.size for entry in walk(source, model_id, FOLDER)}
    if there != sizes:
        raise EvidenceInvalid("the adapter's files have other names or sizes than recorded", expected="those recorded")
    return found


def _most(candidate: Candidate) -> int:
    """The most bytes that a candidate has: the digest that names it is also that of its files' sizes."""
    return sum(file.size for file in candidate.adapter.files) + len(FILES) * LARGEST


def _given(name: str, tracking_uri: str, now: datetime) -> Fetched | None:
    """The candidate that whoever fetches this name is given, if any is."""
    try:
        with workplace() as place:
            return fetch(name, place / "candidate", tracking_uri=tracking_uri, now=now)
    except GuardrailError:
        return None


def _store(
    opened: MlflowClient, source: Reader, experiment_id: str, name: str, directory: Path, to: Destinations
) -> str:
    model = opened.create_logged_model(
        experiment_id, name=f"adapter-{name[:12]}", tags={TAG: name}, model_type="candidate"
    )
    upload(opened, model.model_id, directory, to)
    require_received(opened, source, model.model_id, directory, to.tracking_uri)
    opened.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _listed(opened: MlflowClient, name: str) -> list[str]:
    """The complete logged models with this tag, oldest first.

    Raises:
        InvalidInput: there are more than anybody looks at.
    """
    experiment = opened.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    found: list[LoggedModel] = []
    token: str | None = ""
    while token is not None and len(found) <= MOST:
        page = opened.search_logged_models(
            [str(experiment.experiment_id)],
            f"tags.`{TAG}` = '{name}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            page_token=token or None,
        )
        found, token = [*found, *page], page.token or None
    if len(found) > MOST:
        raise InvalidInput(
            f"more than {MOST} logged models call themselves the candidate {name}",
            expected="the one that is meant",
            next_step="guardrail candidate pull --candidate with the id that push printed",
        )
    ready = [str(model.model_id) for model in found if str(model.status) == "READY"]
    return [model_id for model_id in ready if MODEL_SOURCE.fullmatch(f"models:/{model_id}")]


def _files(directory: Path) -> tuple[FileDigest, ...]:
    """The files beside the adapter: exactly those that are carried, none of them larger than an envelope may be."""
    found = {path.name for path in directory.iterdir()}
    missing, extra = sorted({*FILES, FOLDER} - found), sorted(found - {*FILES, FOLDER})
    if missing:
        raise EvidenceMissing(f"the candidate holds no {', '.join(missing)}", expected=", ".join((*FILES, FOLDER)))
    if extra:
        raise EvidenceInvalid(f"the candidate holds {extra[0]!a}", expected=f"only {', '.join((*FILES, FOLDER))}")
    for name in FILES:
        path = directory / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            raise EvidenceInvalid(f"the candidate's {name} is no file of at most {LARGEST} bytes")
    return manifest(directory, FILES)


def _read(directory: Path, name: str, kind: type[AnyFrozen]) -> AnyFrozen:
    data = (directory / name).read_bytes()
    try:
        found = kind.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceInvalid(f"the candidate's {name} cannot be read: {error.error_count()} errors") from error
    if canonical(found) != data:
        raise EvidenceInvalid(f"the candidate's {name} is not in its canonical form")
    return found


def _require_bound(
    policy: LoadedPolicy, ticket: Ticket, data: DataReport, adapter: AdapterRecord, files: tuple[FileDigest, ...]
) -> None:
    target = policy.policy.target
    require_agreement(
        (
            ("the adapter's files", adapter.manifest, manifest_digest(files)),
            ("the adapter record's list of files", manifest_digest(adapter.files), adapter.manifest),
            ("the adapter record's data report", adapter.data, digest(data)),
            ("the adapter record's training rows", adapter.training_digest, data.training_digest),
            ("the adapter record's base", adapter.base.digest, data.base),
            ("the stage whose record is of another policy", foreign(policy, (data, adapter)), ""),
            ("the ticket's target", f"{ticket.model}@{ticket.alias}", f"{target.model}@{target.alias}"),
        ),
        whose="of the candidate, ",
        parts="parts of one and the same run",
        next_step="push the candidate again from its run",
    )


def _require_stated(
    directory: Path, policy: LoadedPolicy, ticket: Ticket, data: DataReport, adapter: AdapterRecord, now: datetime
) -> None:
    """Each statement says what the records beside it show."""
    signed = (directory / DATA_SIGNED).read_bytes()
    bound = bound_of(ticket, policy.digest, adapter.base, data)
    trained = bound_of(ticket, policy.digest, adapter.base, data, adapter)
    for name, expected in (
        (DATA_SIGNED, ExpectedStatement("data", bound, digest(data), None, ticket.ledger)),
        (TRAIN_SIGNED, ExpectedStatement("train", trained, digest(adapter), sha256(signed), ticket.ledger)),
    ):
        wrong = differs((directory / name).read_bytes(), expected, now)
        if wrong:
            raise EvidenceInvalid(
                f"the candidate's {name} {wrong}",
                expected="what the records beside it show",
                next_step="run the stage again in the candidate's run, with --sign-key, and push again",
            )
