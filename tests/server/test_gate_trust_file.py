"""The trust file of a running server: broken, older, expired, renewed; and servers that must not start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bypass import session
from gate_fixtures import Pair, client_of, promoted
from gate_trust import guarded_model, signed, trust
from gated_servers import People, Running, environment, people
from server_process import Command, end, free_port, started

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import read_unverified_trust

pytestmark = pytest.mark.slow


@pytest.fixture
def restored(pair: Pair) -> Iterator[Pair]:
    """Afterwards a valid trust file of a higher version is there again."""
    before = pair.people.trust_file.read_bytes()
    yield pair
    pair.people.write(before)
    if not _works(pair.gated):
        pair.people.write(_version(pair, 9))
    assert _works(pair.gated)


def _version(pair: Pair, more: int, *names: str, days: float = 30) -> bytes:
    """A trust file so many versions after the one that is there."""
    now = read_unverified_trust(pair.people.trust_file.read_bytes())
    return pair.people.trust(*names, version=now.version + more, days=days)


def _works(running: Running) -> bool:
    """Making the empty model is the smallest guarded write."""
    answer = session().post(
        f"{running.uri}/api/2.0/mlflow/registered-models/create", json={"name": "guarded"}, timeout=30
    )
    return "guardrail refuses" not in answer.text


BROKEN: dict[str, Callable[[Pair], bytes]] = {
    "garbage": lambda _: b"garbage",
    "empty": lambda _: b"",
    "not canonical": lambda pair: _version(pair, 5) + b"\n",
    "signed by a stranger": lambda pair: signed(
        trust(pair.people.stranger, pair.people.decider, [guarded_model("guarded")]), pair.people.stranger
    ),
    "expired": lambda pair: _version(pair, 5, days=0.01),
    "one byte changed": lambda pair: _version(pair, 5).replace(b"e", b"f", 1),
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_broken_trust_file_stops_guarded_writes_until_it_is_mended(restored: Pair, tmp_path: Path, how: str) -> None:
    before = restored.people.trust_file.read_bytes()
    restored.people.write(BROKEN[how](restored))
    assert not _works(restored.gated)
    with pytest.raises(EvidenceInvalid, match=r"trust file|envelope|signature"):
        promoted(restored.gated, restored.people, tmp_path / "a", "guarded", seed=31)
    client = client_of(restored.gated)
    name = f"still {how}"
    client.create_registered_model(name)
    client.set_registered_model_tag(name, "still", "works")
    restored.people.write(before)
    assert _works(restored.gated)


@pytest.mark.every_cell
def test_a_trust_file_that_is_gone_stops_guarded_writes(restored: Pair) -> None:
    before = restored.people.trust_file.read_bytes()
    restored.people.trust_file.unlink()
    assert not _works(restored.gated)
    restored.people.write(before)
    assert _works(restored.gated)


@pytest.mark.every_cell
def test_versions_only_go_up_and_a_new_one_counts_at_once(restored: Pair) -> None:
    from mlflow.exceptions import MlflowException

    first, client = restored.people.trust_file.read_bytes(), client_of(restored.gated)
    client.create_registered_model("later", {"free": "yes"})
    restored.people.write(_version(restored, 2, "later"))
    with pytest.raises(MlflowException, match="guardrail refuses"):
        client.set_registered_model_tag("later", "a", "b")
    restored.people.write(first)
    assert not _works(restored.gated)
    with pytest.raises(MlflowException, match="guardrail refuses"):
        client.set_registered_model_tag("later", "a", "b")


def _server(folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    made = people(folder / "people")
    if content := changes.pop("content", None):
        made.trust_file.write_text(content)
    options = {
        "--trust": str(made.trust_file),
        "--root-key": str(made.root.public_file),
        "--port": str(free_port()),
        "--backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination": str(folder / "artifacts"),
        "--key": str(made.server.private_file),
        "--ledger": str(folder / "ledger"),
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    arguments = [sys.executable, "-m", "guardrail", "server", *(part for pair in options.items() for part in pair)]
    return subprocess.run(
        arguments, env=environment(folder), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"content": "garbage"}, 11, "envelope"),
        ({"trust": "absent"}, 2, "cannot read the trust file"),
        ({"root_threshold": "2"}, 2, "GUARDRAIL_ROOT_THRESHOLD"),
        ({"artifacts_destination": "gs://bucket/key"}, 2, "local or mounted disk"),
        ({"backend_store_uri": "mssql://x"}, 2, "gated+sqlite"),
    ],
)
def test_a_server_without_what_the_gate_needs_does_not_start(
    tmp_path: Path, changes: dict[str, str], code: int, message: str
) -> None:
    done = _server(tmp_path, **changes)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "mlflow.db").exists()


def _gate_settings(who: People, folder: Path) -> dict[str, str]:
    """As the guide has them."""
    return {
        "GUARDRAIL_TRUST": str(who.trust_file),
        "GUARDRAIL_ROOT_KEYS": str(who.root.public_file),
        "GUARDRAIL_SERVER_KEY": str(who.server.private_file),
        "GUARDRAIL_LEDGER": str(folder / "ledger"),
        "GUARDRAIL_LEDGER_HEAD": str(folder / "ledger.head"),
    }


def _plain_flags(folder: Path, scheme: str, port: int, *more: str, **variables: str) -> Command:
    made = people(folder / "people")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    arguments = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        "guardrail",
        "--workers",
        "2",
        "--port",
        str(port),
        "--backend-store-uri",
        database,
        "--registry-store-uri",
        scheme + database,
        "--disable-workspaces",
        "--artifacts-destination",
        str(folder / "artifacts"),
        *more,
    ]
    settings = {
        **_gate_settings(made, folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    }
    return Command(arguments, {**environment(folder), **settings, **variables})


def test_the_plain_flags_of_the_guide_give_a_gated_server(tmp_path: Path) -> None:
    port = free_port()
    command = _plain_flags(tmp_path, "gated+", port)
    with started(command, port, tmp_path):
        answer = session().post(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/registered-models/create",
            json={"name": "guarded", "description": "gate: PASSED"},
            timeout=60,
        )
    assert (answer.status_code, "guardrail refuses" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("scheme", "flags", "variables", "message"),
    [
        ("", (), {}, "the gate is not active"),
        ("gated+", (), {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true"}, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION is on"),
        ("", ("--gunicorn-opts", "--log-level warning"), {}, "the gate is not active"),
    ],
    ids=["uvicorn, not gated", "uvicorn, jobs", "gunicorn, not gated"],
)
def test_a_server_whose_gate_is_not_active_ends_however_many_workers_it_has(
    tmp_path: Path, scheme: str, flags: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    command = _plain_flags(tmp_path, scheme, free_port(), *flags, **variables)
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command.arguments, cwd=tmp_path, stdout=stream, stderr=stream, env=command.env, start_new_session=True
        )
        try:
            process.wait(timeout=180)
        finally:
            end(process)
    assert message in log.read_text()
    assert log.read_text().count("the server ends") <= 2


def test_nothing_guarded_is_admitted_without_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated store in a server whose artifacts nobody guards."""
    from mlflow.exceptions import MlflowException

    from guardrail.gate.store.gated_store import GatedStore

    made = people(tmp_path / "people")
    for name, value in _gate_settings(made, tmp_path).items():
        monkeypatch.setenv(name, value)
    store = GatedStore(f"gated+sqlite:///{tmp_path / 'mlflow.db'}")
    store.create_registered_model("guarded")
    with pytest.raises(MlflowException, match="not active"):
        store.create_model_version("guarded", "models:/m-1")
