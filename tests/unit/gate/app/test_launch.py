"""What the launcher starts, and what it turns off."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_trust import Person, guarded_model, person, signed, trust
from gunicorn.arbiter import Arbiter
from uvicorn.config import STARTUP_FAILURE

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.trust.trust_file import add_trust_signature
from guardrail.gate import settings
from guardrail.gate.app import apps
from guardrail.gate.app.apps import closing
from guardrail.gate.app.launch import THREADS, Launch, check, command, environment
from guardrail.gate.settings import MUST_BE_OFF, destination, require_off

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ON = dict.fromkeys(MUST_BE_OFF, "true") | {"MLFLOW_REGISTRY_STORE_URI": "sqlite:///other.db", "PATH": "/bin"}


@pytest.fixture
def root(tmp_path: Path) -> Person:
    return person(tmp_path / "k", "root")


@pytest.fixture
def launch(tmp_path: Path, root: Person) -> Launch:
    decider = person(tmp_path / "k", "decider")
    (tmp_path / "trust").write_bytes(signed(trust(root, decider, [guarded_model("guarded")], now=NOW), root))
    return Launch(
        tmp_path / "trust",
        (root.public_file,),
        1,
        "sqlite:///a.db",
        str(tmp_path / "artifacts"),
        str(decider.private_file),
        tmp_path / "ledger",
        tmp_path / "head",
    )


def test_the_registry_is_gated_and_the_backend_plain(launch: Launch) -> None:
    line = " ".join(command(launch))
    assert "--registry-store-uri gated+sqlite:///a.db" in line
    assert "--backend-store-uri sqlite:///a.db" in line
    assert "--app-name guardrail " in line
    assert "--disable-workspaces" in line


def test_basic_auth_and_gunicorn_are_options(launch: Launch) -> None:
    line = " ".join(command(replace(launch, auth="basic-auth", gunicorn=True)))
    assert "--app-name guardrail-basic-auth" in line
    assert f"--worker-class gthread --threads {THREADS}" in line
    assert "--gunicorn-opts" not in command(launch)


def test_what_goes_around_the_gate_is_off_whatever_was_inherited(launch: Launch) -> None:
    made = environment(launch, ON, Path("report"))
    assert {name: made[name] for name in MUST_BE_OFF} == dict.fromkeys(MUST_BE_OFF, "false")
    assert "MLFLOW_REGISTRY_STORE_URI" not in made
    assert made["PATH"] == "/bin"
    require_off(made | {settings.SERVES_ARTIFACTS: "true"})


@pytest.mark.parametrize("name", list(MUST_BE_OFF))
def test_anything_left_on_stops_the_server(launch: Launch, name: str) -> None:
    made = environment(launch, {}, Path("report")) | {settings.SERVES_ARTIFACTS: "true", name: "1"}
    with pytest.raises(InvalidInput, match=name):
        require_off(made)


def test_a_server_that_serves_no_artifacts_is_refused(launch: Launch) -> None:
    with pytest.raises(InvalidInput, match="serve artifacts"):
        require_off(environment(launch, {}, Path("report")))


def test_an_expired_trust_file_stops_the_launch(launch: Launch) -> None:
    with pytest.raises(EvidenceInvalid, match="expired at"):
        check(launch, NOW + timedelta(days=60))


@pytest.mark.parametrize("uri", ["gs://bucket", "file://host/path", "", "hdfs://x/y", "sealed://x"])
def test_artifacts_must_lie_on_a_disk_or_in_a_bucket(uri: str) -> None:
    with pytest.raises(InvalidInput, match="local or mounted"):
        destination(uri)


@pytest.mark.parametrize(("uri", "path"), [("/a/b", "/a/b"), ("file:///a/b%20c", "/a/b c"), ("/a/b%20c", "/a/b%20c")])
def test_a_destination_is_read_as_mlflow_reads_it(uri: str, path: str) -> None:
    assert destination(uri) == Path(path)


def test_settings_say_what_is_missing(launch: Launch) -> None:
    with pytest.raises(InvalidInput, match="GUARDRAIL_ROOT_KEYS"):
        settings.settings({"GUARDRAIL_TRUST": "x"})
    for threshold in ("0", "2", "x", "-1", ""):
        with pytest.raises(InvalidInput, match="THRESHOLD"):
            settings.settings(environment(launch, {}, Path("r")) | {"GUARDRAIL_ROOT_THRESHOLD": threshold})


def test_without_a_threshold_all_root_keys_must_have_signed(launch: Launch, root: Person, tmp_path: Path) -> None:
    second = person(tmp_path / "k", "second-root")
    both = replace(launch, root_keys=(root.public_file, second.public_file, second.public_file), root_threshold=None)
    given = environment(both, {"GUARDRAIL_ROOT_THRESHOLD": "1"}, Path("r"))
    assert settings.settings(given).threshold == 2
    with pytest.raises(EvidenceInvalid, match="signed by 1 of the root keys"):
        check(both, NOW)
    data = (tmp_path / "trust").read_bytes()
    (tmp_path / "trust").write_bytes(add_trust_signature(data, second.private))
    check(both, NOW)


def test_what_a_worker_has_loaded_is_kept_from_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "install", lambda: None)
    before = gc.get_freeze_count()
    try:
        apps._install_or_end()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_a_worker_whose_gate_is_not_active_says_so_and_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[tuple[int, int]] = []
    codes: list[int] = []

    def fail() -> None:
        raise InvalidInput("no gate")

    monkeypatch.setattr(apps, "install", fail)
    monkeypatch.setattr("os.kill", lambda *given: ended.append(given))
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.delenv(apps.REPORT, raising=False)
    apps._install_or_end()
    assert ended == []
    monkeypatch.setenv(apps.REPORT, str(tmp_path / "report"))
    apps._install_or_end()
    assert codes == [STARTUP_FAILURE, Arbiter.WORKER_BOOT_ERROR]
    assert ended == [(os.getppid(), signal.SIGTERM)]
    assert (tmp_path / "report").read_text() == "no gate"


def test_a_key_that_the_trust_file_does_not_name_for_the_ledger_starts_nothing(launch: Launch, tmp_path: Path) -> None:
    stranger = person(tmp_path / "k", "stranger")
    with pytest.raises(InvalidInput, match="may not sign the ledger"):
        check(replace(launch, key=str(stranger.private_file)), NOW)


def test_a_head_without_its_ledger_starts_nothing(launch: Launch) -> None:
    launch.ledger_head.write_text('{"digest":"' + "0" * 64 + '","number":1,"time":"2026-03-01T00:00:00Z"}')
    with pytest.raises(EvidenceInvalid, match="does not reach the head"):
        check(launch, NOW)


def test_the_assistant_is_closed_and_everything_else_passes() -> None:
    import asyncio

    passed: list[str] = []
    sent: list[int] = []

    async def app(scope: object, receive: object, send: object) -> None:
        passed.append("passed")

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message.get("status", 0))

    async def receive() -> dict[str, object]:
        return {}

    closed = closing(app)

    async def call(path: str) -> None:
        await closed({"type": "http", "path": path}, receive, send)

    for path in ("/api/2.0/mlflow/runs/get", "/ajax-api/3.0/mlflow/assistant/config", "/x/mlflow/assistant"):
        asyncio.run(call(path))
    assert (passed, sent) == (["passed"], [403, 0, 403, 0])


@pytest.mark.slow
def test_an_ordinary_client_neither_loads_the_gate_nor_complains_of_it(tmp_path: Path) -> None:
    """MLflow loads the entry points of every store in every process that has a registry client."""
    script = (
        "import sys; from mlflow import MlflowClient; "
        f"MlflowClient('sqlite:///{tmp_path / 'store.db'}').search_registered_models(); "
        "assert 'guardrail.gate.store.gated_store' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gated" not in done.stderr
