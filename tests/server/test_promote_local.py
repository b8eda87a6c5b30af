"""Promotion into a local SQLite store: order of work, crashes at every step, idempotence, refusals."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from registry_bundles import NOW, resealed, sealed, unsealed

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.records import RegistryRecord, Verdict
from guardrail.registry.mlflow.mlflow_client import client, probe
from guardrail.registry.mlflow.tags import tags
from guardrail.registry.record.decision_run import experiment
from guardrail.registry.record.promote import STEPS, promote
from guardrail.registry.verify.verify import verify

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return key_pairs.load_private(key_pairs.init(tmp_path_factory.mktemp("keys")).private)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a store') / 'mlflow.db'}"


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A registered model's name of the test's own."""
    return str(request.node.name).replace("[", "-").replace("]", "")[:100]


@pytest.fixture
def opened(uri: str) -> Iterator[MlflowClient]:
    with client(uri, write=True) as found:
        yield found


def go(bundle: Bundle, uri: str, key: PrivateKey, on_step: Callable[[str], None] | None = None) -> RegistryRecord:
    return promote(bundle, tracking_uri=uri, private_key=key, now=NOW, on_step=on_step)


def test_a_passed_decision_becomes_a_version_with_its_alias(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient
) -> None:
    steps: list[str] = []
    record = go(sealed(tmp_path / "a", key, model=model), uri, key, steps.append)
    assert tuple(steps) == STEPS
    assert (record.version, record.alias, record.verdict) == ("1", "production", Verdict.PASSED)
    assert opened.get_model_version_by_alias(model, "production").version in (1, "1")
    assert (
        verify(f"{model}@production", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW).version == "1"
    )


def test_a_denial_is_a_run_with_evidence_and_nothing_else(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient
) -> None:
    record = go(sealed(tmp_path / "a", key, model=model, safe=False), uri, key)
    assert (record.verdict, record.version, record.alias, record.model_id) == (Verdict.FAILED, None, None, None)
    run = opened.get_run(record.run_id)
    assert run.data.tags["guardrail.verdict"] == "FAILED"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["attack_success_rate/harmful/gate/direct/refusal/value"] == pytest.approx(0.92)
    names = {item.path for item in opened.list_artifacts(record.run_id, "evidence")}
    assert "evidence/decision.dsse.json" in names
    assert "evidence/policy.yaml" in names
    assert not opened.search_registered_models(f"name = '{model}'")


def test_promoting_twice_gives_the_same_version(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient
) -> None:
    bundle = sealed(tmp_path / "a", key, model=model)
    first, second = go(bundle, uri, key), go(bundle, uri, key)
    assert first == second
    assert len(opened.search_model_versions(f"name = '{model}'")) == 1


def test_old_evidence_never_moves_the_alias_back(tmp_path: Path, key: PrivateKey, uri: str, model: str) -> None:
    old, new = sealed(tmp_path / "a", key, model=model), sealed(tmp_path / "b", key, model=model, seed=1)
    assert go(old, uri, key).version == "1"
    assert go(new, uri, key).version == "2"
    again = go(old, uri, key)
    assert (again.version, again.alias) == ("1", None)
    assert (
        verify(f"{model}@production", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW).version == "2"
    )


def test_an_alias_that_was_moved_back_by_hand_verifies_as_the_guide_says(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient
) -> None:
    """A gap that docs/evidence.md tells of: the page must change with the code."""
    for seed, version in enumerate(("1", "2")):
        assert go(sealed(tmp_path / version, key, model=model, seed=seed), uri, key).version == version
    opened.set_registered_model_alias(model, "production", "1")
    assert (
        verify(f"{model}@production", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW).version == "1"
    )


class Killed(BaseException):
    """As a signal would end the process: nothing may catch it."""


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_before_any_step_leaves_nothing_unproven_and_a_retry_completes(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient, step: str
) -> None:
    bundle = sealed(tmp_path / "a", key, model=model)

    def die(name: str) -> None:
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        go(bundle, uri, key, die)
    assert_nothing_unproven(opened, model, uri, key)
    record = go(bundle, uri, key)
    assert (record.version, record.alias) == ("1", "production")
    assert len(opened.search_model_versions(f"name = '{model}'")) == 1
    runs = opened.search_runs(
        [opened.get_run(record.run_id).info.experiment_id],
        f"tags.`guardrail.evidence_sha256` = '{bundle.evidence_sha256}'",
    )
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [str(logged.status) for logged in logged_models(opened, bundle)] == ["READY"]


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("step", ["run-end", "finalize"])
def test_nothing_is_said_to_be_there_that_the_registry_does_not_give_back(
    tmp_path: Path, key: PrivateKey, model: str, step: str, *, safe: bool
) -> None:
    """As where a server names a directory, and the client writes it on a disk of its own."""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def on_another_disk(name: str) -> None:
        if name == step:
            shutil.rmtree(tmp_path / "mlartifacts")

    if not safe and step == "finalize":
        pytest.skip("a denial makes no model")
    with pytest.raises(InvalidInput, match="did not receive what was written") as refused:
        go(sealed(tmp_path / "a", key, model=model, safe=safe), store, key, on_another_disk)
    assert "--serve-artifacts" in refused.value.next_step
    with client(store, write=False) as left:
        assert not left.search_model_versions(f"name = '{model}'")


@pytest.mark.parametrize("registry", ["http://other:5000", "sqlite:///other.db", "databricks-uc"])
def test_a_registry_elsewhere_is_refused_before_anything_is_written(
    tmp_path: Path, key: PrivateKey, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(InvalidInput, match="MLFLOW_REGISTRY_URI"):
        go(sealed(tmp_path / "a", key), store, key)
    with pytest.raises(InvalidInput, match="MLFLOW_REGISTRY_URI"):
        verify("guarded/1", tracking_uri=store, public_keys=[key_pairs.public_of(key)], now=NOW)
    assert not (tmp_path / "mlflow.db").exists()


def logged_models(opened: MlflowClient, bundle: Bundle) -> list[LoggedModel]:
    """Those with the tag of this evidence."""
    where = f"tags.`guardrail.evidence_sha256` = '{bundle.evidence_sha256}'"
    return list(opened.search_logged_models([e.experiment_id for e in opened.search_experiments()], where))


def junk(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("junk")
    return str(folder)


JUNK: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "other files": ("adapter_config.json", "adapter_model.safetensors", "evidence/decision.dsse.json"),
    "a file more": ("more.bin", "evidence/more.bin"),
    "a directory in the way": ("adapter_config.json/x", "evidence/decision.dsse.json/x", "report.html/x"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("case", JUNK)
def test_what_was_logged_before_under_the_evidences_digest_is_in_nobodys_way(
    tmp_path: Path, key: PrivateKey, model: str, case: str, finished: bool
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    bundle = sealed(tmp_path / "a", key, model=model)
    tag = {"guardrail.evidence_sha256": bundle.evidence_sha256}
    with client(uri, write=True) as opened:
        experiment_id = experiment(opened, uri, "guardrail")
        for number in range(2):
            run = opened.create_run(experiment_id, tags=tag)
            logged = opened.create_logged_model(experiment_id, name="junk", tags=tag)
            if JUNK[case]:
                files = junk(tmp_path / f"junk {number}", *JUNK[case])
                opened.log_artifacts(run.info.run_id, files)
                opened.log_model_artifacts(logged.model_id, files)
            if finished:
                opened.set_terminated(run.info.run_id)
                opened.finalize_logged_model(logged.model_id, "READY")
        first = promote(bundle, tracking_uri=uri, private_key=key, now=NOW, page="a page")
        assert first == promote(bundle, tracking_uri=uri, private_key=key, now=NOW, page="a page")
        stored = {Path(item.path).name: item.file_size for item in opened.list_artifacts(first.run_id, "evidence")}
    sent = {**bundle.records(), "decision.dsse.json": bundle.envelope}
    assert stored == {name: len(data) for name, data in sent.items()}
    assert (first.version, first.alias) == ("1", "production")
    assert verify(f"{model}/1", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW).version == "1"


PLANTED: dict[str, dict[str, str]] = {
    "one tag": {},
    "all tags": {"all": "yes"},
    "another model id": {"all": "yes", "guardrail.model_id": "m-0"},
    "one tag more": {"all": "yes", "guardrail.more": "x"},
    "another verdict": {"all": "yes", "guardrail.verdict": "FAILED"},
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_version_that_somebody_planted_under_the_evidences_digest_stops_nobody(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient, case: str
) -> None:
    bundle = sealed(tmp_path / "a", key, model=model)
    planted = dict(PLANTED[case])
    ours = (
        tags(bundle.decision, bundle.evidence_sha256, (key_pairs.public_of(key).keyid,))
        if planted.pop("all", "")
        else {}
    )
    experiment(opened, uri, "guardrail")
    found = opened.get_experiment_by_name("guardrail")
    assert found is not None
    junk_model = opened.create_logged_model(found.experiment_id, name="junk")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "adapter_model.safetensors").write_bytes(b"junk")
    opened.log_model_artifacts(junk_model.model_id, str(tmp_path / "junk"))
    opened.finalize_logged_model(junk_model.model_id, "READY")
    opened.create_registered_model(model)
    said = {"guardrail.evidence_sha256": bundle.evidence_sha256, "guardrail.model_id": junk_model.model_id}
    opened.create_model_version(model, f"models:/{junk_model.model_id}", tags={**said, **ours, **planted})
    assert [go(bundle, uri, key).version for _ in range(2)] == ["2", "2"]
    assert (
        verify(f"{model}@production", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW).version == "2"
    )


def assert_nothing_unproven(opened: MlflowClient, model: str, uri: str, key: PrivateKey) -> None:
    for version in opened.search_model_versions(f"name = '{model}'"):
        verify(f"{model}/{version.version}", tracking_uri=uri, public_keys=[key_pairs.public_of(key)], now=NOW)
    for found in opened.search_registered_models(f"name = '{model}'"):
        assert not found.aliases


def test_files_that_change_during_the_promotion_are_not_what_is_stored(
    tmp_path: Path, key: PrivateKey, uri: str, model: str
) -> None:
    bundle = sealed(tmp_path / "a", key, model=model)

    def meddle(name: str) -> None:
        if name == "model-artifacts":
            (bundle.adapter_dir / "adapter_model.safetensors").write_bytes(b"poison")

    assert go(bundle, uri, key, meddle).version == "1"


def test_a_registry_that_changes_the_files_gets_no_alias(
    tmp_path: Path, key: PrivateKey, uri: str, model: str, opened: MlflowClient
) -> None:
    def meddle(name: str) -> None:
        if name == "version":
            found = opened.search_logged_models([opened.search_experiments()[0].experiment_id])
            logged = max(found, key=lambda model: model.creation_timestamp)
            (local(logged.artifact_location) / "adapter_config.json").write_text("{}")

    with pytest.raises(EvidenceInvalid, match=r"changed: adapter_config\.json"):
        go(sealed(tmp_path / "a", key, model=model), uri, key, meddle)
    assert not opened.get_registered_model(model).aliases


def local(location: str) -> Path:
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(location).path))


@pytest.mark.parametrize("what", ["adapter", "policy", "verdict", "expired", "unsigned", "other key", "link", "name"])
def test_bad_evidence_is_refused_before_anything_is_written(tmp_path: Path, key: PrivateKey, what: str) -> None:
    target, bundle = tmp_path / "mlflow.db", sealed(tmp_path / "a", key, safe=what != "verdict")
    now = NOW + timedelta(days=31) if what == "expired" else NOW
    if what == "adapter":
        (bundle.adapter_dir / "adapter_config.json").write_text("{}")
    elif what == "policy":
        bundle = Bundle(**{**bundle.__dict__, "policy": bundle.policy + b"\n"})
    elif what == "verdict":
        bundle = resealed(bundle, key, lambda decision: decision.model_copy(update={"verdict": Verdict.PASSED}))
    elif what == "unsigned":
        bundle = unsealed(tmp_path / "b")
    elif what == "other key":
        bundle = sealed(tmp_path / "b", key_pairs.load_private(key_pairs.init(tmp_path / "k").private))
    elif what == "link":
        (bundle.adapter_dir / "more").symlink_to(bundle.adapter_dir / "adapter_config.json")
    elif what == "name":
        (bundle.adapter_dir / "a%2fb").write_text("")
    with pytest.raises(EvidenceInvalid):
        promote(bundle, tracking_uri=f"sqlite:///{target}", private_key=key, now=now)
    assert not target.exists()


def test_a_locked_database_is_unavailable(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServiceUnavailable, match="locked"):
            probe(f"sqlite:///{database}", write=True)


def test_a_missing_directory_and_a_file_that_is_no_database_are_invalid_input(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as if it were one " * 20)
    for path in ("absent/mlflow.db", "text.db"):
        with pytest.raises(InvalidInput):
            probe(f"sqlite:///{tmp_path / path}", write=True)


def test_promotion_is_quiet_and_puts_the_process_back(
    tmp_path: Path, key: PrivateKey, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = dict(os.environ)
    go(sealed(tmp_path / "a", key), f"sqlite:///{tmp_path / 'mlflow.db'}", key)
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "mlartifacts", "mlflow.db"]


def test_an_experiment_that_somebody_else_made_meanwhile_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two first promotions see it that ask at the same moment whether it is there."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with client(uri, write=True) as opened:
        theirs, asked = opened.create_experiment("guardrail"), opened.get_experiment_by_name
        answers = iter([lambda _: None, asked])
        monkeypatch.setattr(opened, "get_experiment_by_name", lambda name: next(answers)(name))
        assert experiment(opened, uri, "guardrail") == theirs
