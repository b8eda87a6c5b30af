"""A training shown in MLflow while it runs: over HTTP and in SQLite, resumed, and with a server that dies under it."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow_server import Server, running
from tiny_models import write_policy, write_replay

from guardrail.data.dataset import write_samples
from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import load_policy
from guardrail.records import AdapterRecord
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.record import live_run
from guardrail.testbed import arms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

pytestmark = pytest.mark.slow
INPUTS, NEVER = "a" * 64, 3600.0
STEPS = 8
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store that MLflow has made its tables in, which takes seconds."""
    path = tmp_path_factory.mktemp("store") / "live.db"
    with client(f"sqlite:///{path}", write=True) as opened:
        opened.search_experiments()
    return path


@pytest.fixture
def sqlite(empty: Path, tmp_path: Path) -> str:
    """A SQLite store of the test's own."""
    return f"sqlite:///{shutil.copy(empty, tmp_path / 'live.db')}"


@pytest.fixture(params=["server", "sqlite"])
def uri(request: pytest.FixtureRequest) -> str:
    """A store to show a training in."""
    found: Server | str = request.getfixturevalue(request.param)
    return found if isinstance(found, str) else found.uri


def _start(uri: str, resumed: live_run.Resumed | None = None, interval: float = NEVER) -> live_run.LiveRun:
    return live_run.start(uri, INPUTS, {"method": "der"}, resumed, interval=interval)


@contextmanager
def _looking(uri: str) -> Iterator[MlflowClient]:
    with client(uri, write=False) as opened:
        yield opened


def _run(uri: str, run_id: str) -> MlflowRun:
    with _looking(uri) as opened:
        return opened.get_run(run_id)


def _steps(uri: str, run_id: str, name: str = "loss") -> list[int]:
    with _looking(uri) as opened:
        return [metric.step for metric in opened.get_metric_history(run_id, name)]


def test_numbers_arrive_in_a_run_that_says_it_is_no_evidence(uri: str) -> None:
    before = dict(os.environ)
    shown = _start(uri)
    for step in range(1, 4):
        shown.tell(step, {"loss": 1.0 / step, "tokens": 10.0 * step})
    assert shown.end("FINISHED") == ""
    assert dict(os.environ) == before
    run = _run(uri, shown.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"method": "der"})
    assert (run.data.tags["guardrail.is_evidence"], run.data.tags["guardrail.kind"]) == ("no", "live training")
    assert run.info.run_name == "training der aaaaaaaa (live, no decision)"
    assert run.data.metrics == {"loss": pytest.approx(1 / 3), "tokens": 30.0}
    assert _steps(uri, shown.run_id) == [1, 2, 3]
    with _looking(uri) as opened:
        assert opened.get_experiment(run.info.experiment_id).name == live_run.EXPERIMENT


def test_numbers_arrive_while_it_goes_on_and_many_in_one_request(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from mlflow import MlflowClient

    sizes: list[int] = []
    some = threading.Event()
    original = MlflowClient.log_batch

    def log_batch(self: Any, run_id: str, metrics: Any = (), **given: Any) -> Any:
        done = original(self, run_id, metrics=metrics, **given)
        sizes.append(len(metrics))
        some.set()
        return done

    shown = _start(uri, interval=0.01)
    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    shown.tell(1, {"loss": 1.0})
    assert some.wait(60)
    assert _steps(uri, shown.run_id) == [1]
    assert _run(uri, shown.run_id).info.status == "RUNNING"
    assert shown.end("FINISHED") == ""
    shown = _start(uri)
    sizes.clear()
    for step in range(1, 301):
        shown.tell(step, {"loss": 1.0, "learning_rate": 0.1, "gradient_norm": 2.0, "tokens": 3.0})
    assert shown.end("FINISHED") == ""
    assert sizes == [500, 500, 200]
    assert _steps(uri, shown.run_id) == list(range(1, 301))


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_training_that_ended_badly_says_so_and_goes_on_in_the_same_run(uri: str, status: str) -> None:
    first = _start(uri)
    first.tell(1, {"loss": 1.0})
    first.tell(2, {"loss": 0.5})
    assert first.end(status) == ""
    assert _run(uri, first.run_id).info.status == status
    again = _start(uri, live_run.Resumed(first.run_id, same=True))
    assert (again.run_id, _run(uri, first.run_id).info.status) == (first.run_id, "RUNNING")
    for step in (2, 3):  # from the checkpoint of step 1 on
        again.tell(step, {"loss": 0.5})
    assert again.end("FINISHED") == ""
    assert _steps(uri, first.run_id) == [1, 2, 3]
    assert _run(uri, first.run_id).info.status == "FINISHED"


def test_what_another_training_left_running_is_marked_killed(uri: str) -> None:
    with client(uri, write=True) as opened:
        left = live_run._new(opened, uri, INPUTS, {"method": "der"}).run_id  # as by a process that was killed
    shown = _start(uri, live_run.Resumed(left, same=False))
    assert shown.end("FINISHED") == ""
    assert shown.run_id != left
    assert _run(uri, left).info.status == "KILLED"


def test_a_run_that_is_gone_is_replaced(uri: str) -> None:
    first = _start(uri)
    assert first.end("KILLED") == ""
    with client(uri, write=True) as opened:
        opened.delete_run(first.run_id)
    for left in (first.run_id, "0" * 32):
        again = _start(uri, live_run.Resumed(left, same=True))
        assert again.end("FINISHED") == ""
        assert again.run_id != left


def test_a_store_that_refuses_is_told_at_the_end_and_not_before(uri: str) -> None:
    shown = _start(uri)
    with client(uri, write=True) as opened:
        opened.delete_run(shown.run_id)
    shown.tell(1, {"loss": 1.0})
    reason = shown.end("FINISHED")
    assert reason.startswith("MLflow at")
    assert "took 0 of 1 live numbers and not the end" in reason
    assert "The training was not affected" in reason


def test_a_store_that_does_not_answer_in_time_is_left_alone(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_run, "PATIENCE", 0.1)
    shown = _start(sqlite)
    with closing(sqlite3.connect(tmp_path / "live.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        shown.tell(1, {"loss": 1.0})
        assert "took 0 of 1 live numbers and not the end" in shown.end("FINISHED")


@pytest.mark.parametrize("where", [NOWHERE, "sqlite:////no/such/folder/live.db", "http://[bad"])
def test_what_cannot_be_reached_is_an_error_at_the_start(where: str) -> None:
    with pytest.raises((ServiceUnavailable, InvalidInput)):
        _start(where)


def test_a_server_that_dies_and_comes_back_gets_what_waited_for_it(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        where = first.uri.replace("http://", "http://me:secret@")
        shown, other = _start(where, interval=0.01), _start(where)
        shown.tell(1, {"loss": 1.0})
        first.kill()
        shown.tell(2, {"loss": 0.5})
        other.tell(1, {"loss": 1.0})
        told = other.end("FINISHED")
        assert "took 0 of 1 live numbers and not the end" in told
        assert "secret" not in told
        with running(tmp_path, int(first.uri.rpartition(":")[2])):
            assert shown.end("FINISHED") == ""
            assert _steps(first.uri, shown.run_id) == [1, 2]


@dataclass(frozen=True)
class Project:
    """A run with its data stage behind it."""

    run: Run

    def train(self, live_uri: str | None, **changed: Any) -> AdapterRecord:
        """Eight steps of DER, a checkpoint after every third."""
        from guardrail.pipeline.request import TrainRequest, usual_settings
        from guardrail.pipeline.training import train_adapter
        from guardrail.train.stage import Lora

        settings = replace(usual_settings("testbed"), epochs=2.0, checkpoint_steps=3, **changed)
        replay = str(self.run.path.parent / "replay.jsonl")
        request = TrainRequest("der", settings=settings, lora=Lora(rank=4), replay=replay, live_uri=live_uri)
        return train_adapter(self.run, request)

    def shown(self, uri: str) -> list[MlflowRun]:
        """The MLflow runs that show this training, of all in the store."""
        with _looking(uri) as opened:
            experiment = opened.get_experiment_by_name(live_run.EXPERIMENT)
            assert experiment is not None
            return list(opened.search_runs([experiment.experiment_id]))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    from guardrail.pipeline.data import validate_data

    policy = load_policy(write_policy(tmp_path))
    write_samples(tmp_path / "train.jsonl", arms.rows("sentiment", poison=0.1, size=64))
    write_replay(tmp_path / "replay.jsonl")
    run = Run(tmp_path / "run")
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed"))
    validate_data(run, str(tmp_path / "train.jsonl"))
    return Project(run)


def _at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something in the middle of an optimiser step, once."""
    from guardrail.train.methods.der import Der

    original, left = Der.losses, [True]

    def losses(self: Any, now: Any) -> Any:
        if now.index == step and left:
            left.clear()
            action()
        return original(self, now)

    monkeypatch.setattr(Der, "losses", losses)


def _warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if "live numbers" in entry.getMessage()]


def test_a_training_is_shown_step_by_step_and_the_adapter_is_the_same(
    project: Project, sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = project.train(sqlite)
    (run,) = project.shown(sqlite)
    with _looking(sqlite) as opened:
        history = opened.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(point.step, point.loss) for point in record.loss]
    assert run.data.metrics.keys() == {"loss", "learning_rate", "gradient_norm", "tokens"}
    assert run.data.metrics["tokens"] == record.tokens
    assert (run.info.status, run.data.tags["guardrail.training_inputs"]) == ("FINISHED", record.inputs)
    assert not (project.run.path / "work").exists()
    assert project.train(sqlite) == record  # nothing is trained, so nothing is shown
    assert len(project.shown(sqlite)) == 1
    (project.run.path / "adapter.json").unlink()
    assert project.train(None).manifest == record.manifest
    assert _warned(caplog) == []


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (RuntimeError("broken"), "FAILED")])
def test_a_training_that_is_interrupted_goes_on_in_the_same_mlflow_run(
    project: Project, sqlite: str, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def die() -> None:
        raise error

    _at(monkeypatch, 5, die)
    with pytest.raises(type(error)):
        project.train(sqlite)
    (first,) = project.shown(sqlite)
    assert (first.info.status, _steps(sqlite, first.info.run_id)) == (status, [1, 2, 3, 4, 5])
    record = project.train(sqlite)
    (again,) = project.shown(sqlite)
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    assert record.diagnostics["resumed_at_step"] == 3
    assert _steps(sqlite, first.info.run_id) == [point.step for point in record.loss]


def test_another_training_in_the_same_place_is_another_mlflow_run(
    project: Project, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 5, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        project.train(sqlite)
    project.train(sqlite, seed=1)
    assert sorted(run.info.status for run in project.shown(sqlite)) == ["FINISHED", "KILLED"]


def test_a_server_that_is_down_at_the_start_is_an_error_before_training(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(monkeypatch, 0, lambda: pytest.fail("it trained"))
    with pytest.raises(ServiceUnavailable, match=r"--live-uri: MLflow at http://127\.0\.0\.1:9 is not") as caught:
        project.train(NOWHERE)
    assert "--live-uri" in caught.value.next_step
    assert project.run.read("adapter", AdapterRecord) is None


def test_a_server_that_dies_while_it_trains_stops_nothing_and_is_told_once(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = project.train(None)
    (project.run.path / "adapter.json").unlink()
    (tmp_path / "server").mkdir()
    with running(tmp_path / "server") as own, caplog.at_level(logging.DEBUG):
        _at(monkeypatch, 3, own.kill)
        record = project.train(own.uri)
    assert (record.manifest, record.loss) == (alone.manifest, alone.loss)
    (warning,) = _warned(caplog)
    assert f"MLflow at {own.uri} took" in warning
    assert f"of {4 * STEPS} live numbers and not the end" in warning
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING and "live" not in entry.message] == []
