"""The logged model, its version and its alias; each step finds what an earlier attempt left, by the evidence digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.errors import EvidenceInvalid
from guardrail.registry.mlflow.destinations import Destinations
from guardrail.registry.mlflow.tags import EVIDENCE, MODEL_ID, tags
from guardrail.registry.read.local_reader import LocalReader
from guardrail.registry.read.reader import SEALED_SOURCE, Files, Spec, walk
from guardrail.registry.record import read_back
from guardrail.registry.record.earlier_attempt import MOST, usable
from guardrail.registry.verify.evidence_checks import Examined
from guardrail.registry.verify.verify import require_ours

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Logged:
    """A logged model, and whether its files are complete."""

    model_id: str
    finished: bool


def ensure_registered(client: MlflowClient, name: str) -> None:
    """Create the registered model if it is absent."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def find_version(client: MlflowClient, name: str, examined: Examined) -> str | None:
    """The earliest version that carries this evidence: of exactly its tags and files, whoever made it.

    Where MLflow has no gate, anybody may give a version the tag; one that does not fit is passed over.
    """
    found = client.search_model_versions(f"name = '{name}' and tags.`{EVIDENCE}` = '{examined.evidence_sha256}'")
    source = LocalReader(client)
    for version in sorted({str(one.version) for one in found}, key=int):
        if _carries(source, Spec(name=name, version=version), examined):
            return version
    return None


def _carries(source: LocalReader, spec: Spec, examined: Examined) -> bool:
    """Whether a version says what it should, which costs nothing to ask, and its files are those."""
    try:
        stored = source.version(spec)
        require_ours(spec, stored, examined)
        return usable(source, stored.root, examined.files, finished=True)
    except EvidenceInvalid:
        return False


def find_or_start(client: MlflowClient, source: Files, experiment_id: str, run_id: str, examined: Examined) -> Logged:
    """The logged model that holds exactly these files; one whose upload was cut off is filled again."""
    found = client.search_logged_models(
        [experiment_id],
        f"tags.`{EVIDENCE}` = '{examined.evidence_sha256}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    left = [Logged(str(m.model_id), str(m.status) == "READY") for m in found if str(m.status) in ("READY", "PENDING")]
    for logged in sorted(left, key=lambda logged: not logged.finished)[:MOST]:
        if usable(source, logged.model_id, examined.files, finished=logged.finished):
            return logged
    decision = examined.decision
    model = client.create_logged_model(
        experiment_id,
        name=f"adapter-{decision.manifest[:12]}",
        source_run_id=run_id,
        tags=tags(decision, examined.evidence_sha256, examined.signed_by),
        model_type="adapter",
    )
    return Logged(str(model.model_id), finished=False)


def upload(client: MlflowClient, model_id: str, directory: Path, destinations: Destinations) -> None:
    """The files of a logged model, to a place that was judged.

    Raises:
        EvidenceInvalid: its artifacts go where nobody said that they may.
    """
    location = str(client.get_logged_model(model_id).artifact_location)
    destinations.repository(location).log_artifacts(str(directory))


def require_received(client: MlflowClient, source: Files, model_id: str, directory: Path, tracking_uri: str) -> None:
    """The files of a logged model are there for whoever asks the registry.

    Raises:
        InvalidInput: they are not.
    """
    location = str(client.get_logged_model(model_id).artifact_location)
    read_back.require_received(walk(source, model_id), read_back.sizes(directory), tracking_uri, location)


def create_version(client: MlflowClient, name: str, run_id: str, model_id: str, examined: Examined) -> str:
    """A version with all of its tags in the same call, so that it never exists without them."""
    version = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags=tags(examined.decision, examined.evidence_sha256, examined.signed_by) | {MODEL_ID: model_id},
    )
    return str(version.version)


def set_alias(client: MlflowClient, name: str, alias: str, version: str) -> bool:
    """Point the alias at ``version``, unless it already points at a later one; whether it points there now.

    A gated server is always asked: it goes by what its ledger says, and the numbers in its database may be wrong.
    """
    from mlflow.exceptions import MlflowException

    sealed = SEALED_SOURCE.fullmatch(str(client.get_model_version(name, version).source)) is not None
    if not sealed and (current := _points_at(client, name, alias)) >= int(version):
        return current == int(version)
    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException:  # a gated server refuses to go back; somebody else may have been faster
        if not _points_at(client, name, alias) > int(version):
            raise
        return False
    return True


def _points_at(client: MlflowClient, name: str, alias: str) -> int:
    return int(client.get_registered_model(name).aliases.get(alias) or 0)
