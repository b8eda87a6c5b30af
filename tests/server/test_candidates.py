"""A candidate handed on by way of a SQLite store: whole and checked on both ends, whatever the store gives back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from signed_runs import base, held_ticket, policy, record, records, signed, started, tell
from trust_files import NOW, key

from guardrail.errors import EvidenceInvalid, EvidenceMissing, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import stage_file
from guardrail.evidence.digest import canonical
from guardrail.pipeline.gate.handover import Pulled, pull_candidate, push_candidate
from guardrail.pipeline.gate.run_ticket import TICKET
from guardrail.pipeline.gate.signing import prepare, sign_stage
from guardrail.pipeline.promotion import bundle, decide_run
from guardrail.pipeline.run import CONFIG, JOURNAL, Run
from guardrail.policy.load import load_policy_bytes
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.record import candidates

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose data and training stages have signed."""
    run = started(tmp_path_factory.mktemp("trained") / "run", tasks=("sums", "mine=exact:/their/file.jsonl"))
    return signed(run, "data", "train")


@pytest.fixture(scope="module")
def name(trained: Run, uri: str) -> str:
    """The digest of the candidate that was pushed."""
    return push(trained, uri)


def push(run: Run, uri: str) -> str:
    return push_candidate(run.path, tracking_uri=uri, now=NOW).digest


def pull(name: str, path: Path, uri: str, policy_text: bytes = b"") -> Pulled:
    own = load_policy_bytes(policy_text, str(path.parent / "mine" / "policy.yaml")) if policy_text else None
    return pull_candidate(name, path, tracking_uri=uri, now=NOW, policy=own)


def test_the_digest_is_that_of_the_adapters_manifest_and_pushing_again_stores_nothing_more(
    trained: Run, name: str, uri: str
) -> None:
    assert name == records_of_training(trained)
    assert push(trained, uri) == name
    with client(uri, write=False) as opened:
        found = [(model.name, str(model.status)) for model in models(opened, f"tags.`{candidates.TAG}` = '{name}'")]
    assert found == [(f"adapter-{name[:12]}", "READY")]


def test_a_pulled_run_is_evaluated_signed_and_promoted_like_the_one_it_came_from(
    trained: Run, name: str, uri: str, tmp_path: Path
) -> None:
    pulled = pull(name, tmp_path / "pulled", uri)
    run = Run(tmp_path / "pulled")
    assert (run.path / TICKET).read_bytes() == (trained.path / TICKET).read_bytes()
    prepare(run, "evaluate", signs=True, now=NOW)
    tell(run)
    record(run, "evaluate")
    sign_stage(run, "evaluate", key("evaluate"), NOW)
    sealed = bundle(run, decide_run(run, NOW), key("server"), NOW)
    assert sealed.decision.attempt == 1
    assert held_ticket(trained) == pulled.candidate.ticket
    assert sealed.stages["train"] == (trained.path / stage_file("train")).read_bytes()
    assert records(run)[1] == pulled.candidate.adapter
    assert len((run.path / JOURNAL).read_text().splitlines()) == 4


def test_files_of_the_trainers_machine_are_not_files_of_the_evaluators(name: str, uri: str, tmp_path: Path) -> None:
    pulled = pull(name, tmp_path / "pulled", uri)
    config = Run(tmp_path / "pulled").config()
    assert config is not None
    assert config.tasks == ("sums",)
    assert pulled.left_out == ("mine=exact:/their/file.jsonl",)
    assert config.policy_source == str(tmp_path / "pulled" / "policy.yaml")


def test_the_store_is_not_told_where_the_trainers_policy_lies(name: str, uri: str, tmp_path: Path) -> None:
    candidates.fetch(name, tmp_path / "candidate", tracking_uri=uri, now=NOW)
    assert '"policy_source":"policy.yaml"' in (tmp_path / "candidate" / CONFIG).read_text()


def test_the_evaluators_own_policy_takes_the_place_of_an_equal_one(name: str, uri: str, tmp_path: Path) -> None:
    pull(name, tmp_path / "pulled", uri, policy().bytes)
    assert Run(tmp_path / "pulled").policy().source == str(tmp_path / "mine" / "policy.yaml")


def test_a_policy_other_than_the_evaluators_is_refused_and_nothing_is_left(name: str, uri: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceInvalid, match="was made under the policy"):
        pull(name, tmp_path / "pulled", uri, policy().bytes + b"# reviewed\n")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_alone(name: str, uri: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="is not empty"):
        pull(name, tmp_path, uri)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("wrong", ["0" * 64, "x", "../../etc", "0" * 63 + "'"])
def test_a_candidate_that_is_not_there_is_not_made_up(name: str, uri: str, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InvalidInput, match="candidate"):
        pull(wrong, tmp_path / "pulled", uri)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        (TICKET, "--gate URI"),
        (stage_file("data"), "guardrail data validate DATA --sign-key"),
        (stage_file("train"), "guardrail train --sign-key"),
    ],
)
def test_a_run_that_is_not_ready_is_not_pushed(
    trained: Run, uri: str, tmp_path: Path, missing: str, command: str
) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(EvidenceMissing) as caught:
        push(Run(tmp_path / "run"), uri)
    assert command in str(caught.value)


def models(opened: MlflowClient, where: str | None = None) -> list[LoggedModel]:
    experiment = opened.get_experiment_by_name("guardrail")
    assert experiment is not None
    return list(opened.search_logged_models([experiment.experiment_id], where))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def flatten(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("a file")


def other_run(directory: Path, *names: str) -> None:
    """Files of another run of the same policy in the place of this one's."""
    made = started(directory.parent / f"other of {directory.name}", attempt=2)
    record(made, "data", "other")
    sign_stage(made, "data", key("train"), NOW)
    record(made, "train", "other")
    sign_stage(made, "train", key("train"), NOW)
    for name in names:
        shutil.copyfile(made.path / name, directory / name)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda d: flip(d / WEIGHTS), "the adapter's files"),
    "a file more in the adapter": (lambda d: (d / "adapter" / "more.bin").write_bytes(b"x"), "the adapter's files"),
    "a file less in the adapter": (lambda d: (d / WEIGHTS).unlink(), "the adapter's files"),
    "a file more": (lambda d: (d / "more.py").write_text("x"), "holds 'more.py'"),
    "the policy": (lambda d: (d / "policy.yaml").write_bytes(policy().bytes + b"#\n"), "policy"),
    "the data report of another run": (lambda d: other_run(d, "data-report.json"), "data report"),
    "the adapter record of another run": (lambda d: other_run(d, "adapter.json"), "data report"),
    "both records of another run": (lambda d: other_run(d, "data-report.json", "adapter.json"), "names another record"),
    "the ticket of another run": (lambda d: other_run(d, TICKET), "binds another nonce"),
    "the data statement of another run": (lambda d: other_run(d, stage_file("data")), "data.dsse.json"),
    "the training statement of another run": (lambda d: other_run(d, stage_file("train")), "train.dsse.json"),
    "the data statement": (lambda d: flip(d / stage_file("data")), "data.dsse.json"),
    "the ticket's form": (lambda d: (d / TICKET).write_bytes((d / TICKET).read_bytes() + b"\n"), "canonical"),
    "a ticket that is none": (lambda d: (d / TICKET).write_bytes(b"{}"), "cannot be read"),
    "a link": (lambda d: relink(d, CONFIG), "no file of at most"),
    "a link in the adapter": (lambda d: relink(d, WEIGHTS), "symbolic link"),
}


def relink(directory: Path, name: str) -> None:
    outside = directory.parent / "outside"
    (directory / name).rename(outside)
    (directory / name).symlink_to(outside)


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_tampered_with_is_refused(name: str, uri: str, tmp_path: Path, case: str) -> None:
    tamper, said = TAMPERED[case]
    candidate = tmp_path / "candidate"
    candidates.fetch(name, candidate, tracking_uri=uri, now=NOW)
    tamper(candidate)
    with pytest.raises(GuardrailError, match=said) as caught:
        candidates.push(candidate, tracking_uri=uri, now=NOW)
    assert isinstance(caught.value, EvidenceInvalid)


def test_a_store_whose_files_were_changed_gives_no_run(trained: Run, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    name = push(trained, uri)
    (weights,) = (tmp_path / "mlartifacts").rglob("adapter_model.safetensors")
    flip(weights)
    with pytest.raises(EvidenceInvalid, match="the adapter's files"):
        pull(name, tmp_path / "pulled", uri)
    assert not (tmp_path / "pulled").exists()


def test_a_whole_candidate_under_the_name_of_another_is_refused(trained: Run, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    name, claimed = push(trained, uri), "f" * 64
    with client(uri, write=True) as opened:
        (model,) = models(opened)
        opened.set_logged_model_tags(model.model_id, {candidates.TAG: claimed})
    with pytest.raises(EvidenceInvalid, match=name):
        pull(claimed, tmp_path / "pulled", uri)


def plant(uri: str, name: str, lay: Callable[[Path], object], folder: Path) -> None:
    """What anyone may log who may write to MLflow: a complete logged model of other files under a candidate's name."""
    folder.mkdir()
    lay(folder)
    with client(uri, write=True) as opened:
        experiment = opened.get_experiment_by_name("guardrail")
        assert experiment is not None
        made = opened.create_logged_model(experiment.experiment_id, name="junk", tags={candidates.TAG: name})
        if any(folder.iterdir()):
            opened.log_model_artifacts(made.model_id, str(folder))
        opened.finalize_logged_model(made.model_id, "READY")


def spoiled(trained: Run, name: str, spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """The candidate's own files, one of them changed."""

    def lay(folder: Path) -> None:
        for path in (*candidates.FILES, candidates.FOLDER):
            copy = shutil.copytree if (trained.path / path).is_dir() else shutil.copyfile
            copy(trained.path / path, folder / path)
        spoil(folder)

    return lay


PLANTED: dict[str, Callable[[Path], object]] = {
    "the adapter changed": lambda d: flip(d / WEIGHTS),
    "an adapter of many bytes": lambda d: os.truncate(d / WEIGHTS, 1 << 30),
    "the record of another adapter": lambda d: other_run(d, "adapter.json"),
    "no record": lambda d: (d / "adapter.json").unlink(),
    "a file in the place of the adapter": lambda d: flatten(d / "adapter"),
}


@pytest.mark.parametrize("case", ["nothing", *PLANTED])
def test_what_was_put_over_a_candidate_keeps_nobody_from_it(trained: Run, name: str, tmp_path: Path, case: str) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert push(trained, uri) == name
    lay = spoiled(trained, name, PLANTED[case]) if case in PLANTED else lambda _: None
    plant(uri, name, lay, tmp_path / "junk")
    (tmp_path / "place").mkdir()
    assert pull(name, tmp_path / "place" / "pulled", uri).candidate.adapter.manifest == name
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["pulled"]


@pytest.mark.parametrize("case", ["nothing", "another size", "the adapter changed", "the record of another adapter"])
def test_however_many_were_put_over_a_candidate_it_is_found(trained: Run, name: str, tmp_path: Path, case: str) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert push(trained, uri) == name
    spoil = {**PLANTED, "another size": lambda d: (d / WEIGHTS).write_bytes(b"x")}.get(case)
    for number in range(12):
        plant(uri, name, spoiled(trained, name, spoil) if spoil else lambda _: None, tmp_path / f"junk {number}")
    assert pull(name, tmp_path / "pulled", uri).candidate.adapter.manifest == name
    with client(uri, write=False) as opened:
        before = len(models(opened))
    assert push(trained, uri) == name
    with client(uri, write=False) as opened:
        assert len(models(opened)) == before, "what is there is not stored again"


def test_of_copies_with_other_weights_the_first_is_fetched_and_no_other(
    trained: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, fetched = f"sqlite:///{tmp_path / 'mlflow.db'}", list[str]()
    pushed = push_candidate(trained.path, tracking_uri=uri, now=NOW)
    for number in range(3):
        copy = spoiled(trained, name, PLANTED["the adapter changed"])
        plant(uri, name, copy, tmp_path / f"junk {number}")
    whole = candidates._fetched

    def watched(name: str, model_id: str, *more: Any) -> Any:
        fetched.append(model_id)
        return whole(name, model_id, *more)

    monkeypatch.setattr(candidates, "_fetched", watched)
    pull(name, tmp_path / "pulled", uri)
    assert fetched == [pushed.model_id]


def test_the_candidate_that_is_meant_can_be_named_by_its_id(trained: Run, name: str, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pushed = push_candidate(trained.path, tracking_uri=uri, now=NOW)
    other = Run(shutil.copytree(trained.path, tmp_path / "other"))
    again = started(tmp_path / "again", attempt=4)
    shutil.copyfile(again.path / TICKET, other.path / TICKET)
    for stage in ("data", "train"):
        (other.path / stage_file(stage)).unlink(missing_ok=True)
        sign_stage(other, stage, key("train"), NOW)
    push(other, uri)
    given: dict[str, Any] = {"tracking_uri": uri, "now": NOW}
    assert pull_candidate(name, tmp_path / "a", **given).candidate.ticket == held_ticket(other)
    meant = pull_candidate(name, tmp_path / "b", model_id=pushed.model_id, **given)
    assert meant.candidate.ticket == held_ticket(trained)
    for wrong in ("m-0", "../x", "x", ""):
        with pytest.raises(GuardrailError):
            pull_candidate(name, tmp_path / "c", model_id=wrong, **given)


def test_more_than_anybody_looks_at_ask_for_the_id(
    trained: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pushed = push_candidate(trained.path, tracking_uri=uri, now=NOW)
    monkeypatch.setattr(candidates, "MOST", 2)
    for number in range(2):
        plant(uri, name, lambda _: None, tmp_path / f"junk {number}")
    with pytest.raises(InvalidInput, match="--candidate"):
        pull(name, tmp_path / "pulled", uri)
    given: dict[str, Any] = {"tracking_uri": uri, "now": NOW, "model_id": pushed.model_id}
    assert pull_candidate(name, tmp_path / "pulled", **given).candidate.adapter.manifest == name


def test_pushing_again_leads_to_this_candidate_where_another_of_the_same_adapter_is_newer(
    trained: Run, name: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert push(trained, uri) == name
    other = Run(shutil.copytree(trained.path, tmp_path / "other"))
    again = started(tmp_path / "again", attempt=3)
    shutil.copyfile(again.path / TICKET, other.path / TICKET)
    for stage in ("data", "train"):
        (other.path / stage_file(stage)).unlink(missing_ok=True)
        sign_stage(other, stage, key("train"), NOW)
    assert push(other, uri) == name
    assert pull(name, tmp_path / "other's", uri).candidate.ticket == held_ticket(other)
    assert push(trained, uri) == name
    assert pull(name, tmp_path / "pulled", uri).candidate.ticket == held_ticket(trained)


def test_statements_that_have_expired_are_not_pulled(name: str, uri: str, tmp_path: Path) -> None:
    late = NOW + timedelta(days=31)
    with pytest.raises(EvidenceInvalid, match="expired"):
        pull_candidate(name, tmp_path / "pulled", tracking_uri=uri, now=late)


def test_an_upload_that_was_cut_off_is_finished_by_pushing_again(trained: Run, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    name = push(trained, uri)
    with client(uri, write=True) as opened:
        (model,) = models(opened)
        opened.finalize_logged_model(model.model_id, "FAILED")
    with pytest.raises(InvalidInput, match="there is no candidate"):
        pull(name, tmp_path / "pulled", uri)
    assert push(trained, uri) == name
    assert pull(name, tmp_path / "pulled", uri).candidate.adapter.manifest == name


def records_of_training(run: Run) -> str:
    from guardrail.records import AdapterRecord

    adapter = run.require("adapter", AdapterRecord)
    assert adapter.base == base()
    assert canonical(adapter) == (run.path / "adapter.json").read_bytes()
    return adapter.manifest


def test_a_candidate_that_cannot_be_read_now_is_not_replaced_by_an_older_one(
    trained: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, asked = f"sqlite:///{tmp_path / 'mlflow.db'}", list[str]()
    assert push(trained, uri) == name
    plant(uri, name, lambda _: None, tmp_path / "junk")

    def silent(name: str, model_id: str, *_: object) -> None:
        asked.append(model_id)
        raise ServiceUnavailable("the disk is full")

    monkeypatch.setattr(candidates, "_fetched", silent)
    with pytest.raises(ServiceUnavailable):
        pull(name, tmp_path / "pulled", uri)
    assert len(asked) == 1
    assert not (tmp_path / "pulled").exists()
