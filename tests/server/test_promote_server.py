"""Promotion and verification over HTTP: a real server, a stock client, and a registry that lies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import CliRunner
from registry_bundles import NOW, sealed
from safetensors.numpy import load_file

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.digest import digest
from guardrail.evidence.keys import key_pairs
from guardrail.records import RegistryRecord
from guardrail.registry.read.reader import Spec
from guardrail.registry.read.rest_reader import RestReader
from guardrail.registry.record.promote import STEPS, promote
from guardrail.registry.verify.verify import verify

pytestmark = pytest.mark.slow


class Server(Protocol):
    """The session's server (tests/helpers/servers/mlflow_server.py)."""

    uri: str
    artifacts: Path


PAGE = "<!doctype html><title>a page</title>"


@dataclass(frozen=True)
class Pair:
    """A key pair, loaded and on disk."""

    private: key_pairs.PrivateKey
    public_file: Path

    @property
    def public(self) -> list[key_pairs.PublicKey]:
        return [key_pairs.load_public(self.public_file)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    made = key_pairs.init(tmp_path_factory.mktemp("keys"))
    return Pair(key_pairs.load_private(made.private), made.public)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A registered model's name of the test's own, with a character that URLs escape."""
    return re.sub(r"[^A-Za-z0-9_]+", " ", request.node.name)[-80:] + "+"


def go(
    bundle: Bundle, server: Server, pair: Pair, now: datetime = NOW, on_step: Callable[[str], None] | None = None
) -> RegistryRecord:
    return promote(bundle, tracking_uri=server.uri, private_key=pair.private, now=now, page=PAGE, on_step=on_step)


def test_promoting_over_http_twice_gives_one_version_that_verifies_over_rest(
    server: Server, pair: Pair, model: str, tmp_path: Path
) -> None:
    bundle = sealed(tmp_path / "a", pair.private, model=model)
    record = go(bundle, server, pair)
    assert record.version == "1"
    assert record == go(bundle, server, pair)
    for spec in (f"{model}/1", f"{model}@production"):
        found = verify(spec, tracking_uri=server.uri + "/", public_keys=pair.public, now=NOW)
        assert found.evidence_sha256 == record.envelope == bundle.evidence_sha256
        assert found.adapter_sha256 == bundle.decision.manifest


def test_a_stock_client_lists_the_model_reads_the_tags_and_downloads_the_adapter(
    server: Server, pair: Pair, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    bundle = sealed(tmp_path / "a", pair.private, model=model)
    record = go(bundle, server, pair)
    stock = mlflow.MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    assert model in {found.name for found in stock.search_registered_models()}
    version = stock.get_model_version_by_alias(model, "production")
    assert version.tags["guardrail.verdict"] == "PASSED"
    assert version.tags["guardrail.policy_sha256"] == bundle.decision.policy
    assert version.tags["guardrail.model_id"] == record.model_id
    assert "attack_success_rate" in version.tags["guardrail.reasons"]
    assert digest(bundle.decision) == record.decision
    uri, target = f"models:/{model}/{version.version}", str(tmp_path / "got")
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=target))
    assert set(load_file(str(folder / "adapter_model.safetensors")))
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    run = stock.get_run(record.run_id)
    assert run.data.tags["guardrail.evidence_sha256"] == record.envelope
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html") == PAGE


class Killed(BaseException):
    """As a signal would end the process."""


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_over_http_is_finished_by_promoting_again(
    server: Server, pair: Pair, model: str, tmp_path: Path, step: str
) -> None:
    import mlflow

    bundle = sealed(tmp_path / "a", pair.private, model=model)

    def die(name: str) -> None:
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        go(bundle, server, pair, on_step=die)
    stock = mlflow.MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    for found in stock.search_registered_models(f"name = '{model}'"):
        assert not found.aliases
    for version in stock.search_model_versions(f"name = '{model}'"):
        verify(f"{model}/{version.version}", tracking_uri=server.uri, public_keys=pair.public, now=NOW)
    record = go(bundle, server, pair)
    assert (record.version, record.alias) == ("1", "production")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "evidence/decision.dsse.json", "evidence/policy.yaml"])
def test_one_byte_changed_behind_the_server_is_refused(
    server: Server, pair: Pair, model: str, tmp_path: Path, name: str
) -> None:
    record = go(sealed(tmp_path / "a", pair.private, model=model), server, pair)
    stored = next(server.artifacts.rglob(f"{record.model_id}/artifacts/{name}"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    with pytest.raises(EvidenceInvalid):
        verify(f"{model}/1", tracking_uri=server.uri, public_keys=pair.public, now=NOW)


def test_a_file_put_beside_the_weights_is_refused(server: Server, pair: Pair, model: str, tmp_path: Path) -> None:
    import mlflow

    record = go(sealed(tmp_path / "a", pair.private, model=model), server, pair)
    (tmp_path / "chat_template.jinja").write_text("{{ poison }}")
    stock = mlflow.MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    stock.log_model_artifact(str(record.model_id), str(tmp_path / "chat_template.jinja"))
    with pytest.raises(EvidenceInvalid, match=r"not signed: chat_template\.jinja"):
        verify(f"{model}/1", tracking_uri=server.uri, public_keys=pair.public, now=NOW)


def test_the_command_prints_the_checks_or_the_record(server: Server, pair: Pair, model: str, tmp_path: Path) -> None:
    from guardrail.commands.verify import command

    now = datetime.now(UTC)
    go(sealed(tmp_path / "a", pair.private, model=model, now=now), server, pair, now)
    arguments = [f"{model}@production", "--key", str(pair.public_file), "--tracking-uri", server.uri]
    text = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert text.exit_code == 0
    assert "ok  envelope" in text.output
    printed = CliRunner().invoke(command, [*arguments, "--output", "json"], catch_exceptions=False).output
    assert json.loads(printed)["version"] == "1"


def test_verifying_a_server_loads_no_mlflow_and_no_torch(
    server: Server, pair: Pair, model: str, tmp_path: Path
) -> None:
    go(sealed(tmp_path / "a", pair.private, model=model), server, pair)
    program = (
        "import sys, json\n"
        "from datetime import datetime\n"
        "from pathlib import Path\n"
        "from guardrail.evidence.keys.key_pairs import load_public\n"
        "from guardrail.registry.verify.verify import verify\n"
        "spec, uri, key, now = sys.argv[1:]\n"
        "verify(spec, tracking_uri=uri, public_keys=[load_public(Path(key))], now=datetime.fromisoformat(now))\n"
        "heavy = {'mlflow', 'torch', 'transformers', 'peft', 'great_expectations', 'pandas'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))\n"
    )
    arguments = [f"{model}/1", server.uri, str(pair.public_file), NOW.isoformat()]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(done.stdout) == []


def test_a_version_that_the_server_does_not_have_is_invalid_input(server: Server, pair: Pair) -> None:
    for spec in ("absent/1", "absent@production"):
        with pytest.raises(InvalidInput, match="404"):
            verify(spec, tracking_uri=server.uri, public_keys=pair.public, now=NOW)


def test_a_server_that_is_down_is_said_within_seconds(pair: Pair, tmp_path: Path) -> None:
    uri, started = "http://me:secret@127.0.0.1:9", time.monotonic()
    with pytest.raises(ServiceUnavailable) as caught:
        promote(sealed(tmp_path / "a", pair.private), tracking_uri=uri, private_key=pair.private, now=NOW)
    assert caught.value.exit_code == 5
    with pytest.raises(ServiceUnavailable):
        verify("guarded/1", tracking_uri=uri, public_keys=pair.public, now=NOW)
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)


def test_a_server_that_goes_down_in_the_middle_is_unavailable(pair: Pair, tmp_path: Path) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        return (200, b"OK") if path == "/health" else (503, b'{"error_code": "TEMPORARILY_UNAVAILABLE"}')

    with lying(answer) as (uri, _), pytest.raises(ServiceUnavailable):
        promote(sealed(tmp_path / "a", pair.private), tracking_uri=uri, private_key=pair.private, now=NOW)


def test_a_temporary_directory_that_cannot_be_written_is_unavailable(
    server: Server, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sealed(tmp_path / "a", pair.private)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ServiceUnavailable, match="temporary"):
        go(bundle, server, pair)


@contextmanager
def lying(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as it is told; yields its address and the Authorization headers it was sent."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_port}", seen
    finally:
        found.shutdown()
        found.server_close()


VERSION = {"model_version": {"name": "guarded", "version": "1", "source": "models:/m-1", "status": "READY"}}


def files(*names: str, is_dir: bool = False) -> Callable[[str], tuple[int, bytes]]:
    """A registry whose model holds files of these names."""

    def answer(path: str) -> tuple[int, bytes]:
        if "directories" in path:
            return 200, json.dumps({"files": [{"path": name, "is_dir": is_dir} for name in names]}).encode()
        return (200, json.dumps(VERSION).encode()) if "model-versions" in path else (200, b"x")

    return answer


def always(status: int, body: bytes) -> Callable[[str], tuple[int, bytes]]:
    """The same answer to everything."""

    def answer(path: str) -> tuple[int, bytes]:
        return status, body

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        files("../escape"),
        files("/etc/passwd"),
        files("sub/../../x"),
        files("a\\b"),
        files(""),
        files("."),
        files("evidence/x"),
        files("loop", is_dir=True),
        files(*(f"f{n}" for n in range(1001))),
        always(200, b"<html>"),
        always(200, b'{"model_version": 5}'),
        always(401, b"no"),
        always(404, b""),
        always(200, json.dumps({"model_version": {**VERSION["model_version"], "source": "/etc"}}).encode()),
    ],
)
def test_a_registry_that_lies_is_refused_and_writes_nowhere_else(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], tuple[int, bytes]]
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with lying(answer) as (uri, _), pytest.raises(GuardrailError) as caught:
        verify("guarded/1", tracking_uri=uri, public_keys=pair.public, now=NOW)
    assert caught.value.exit_code in (2, 11)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_a_file_larger_than_the_limit_is_not_stored(tmp_path: Path) -> None:
    with lying(always(200, b"x" * 100)) as (uri, _), pytest.raises(EvidenceInvalid, match="limit"):
        RestReader(uri).fetch("m-1", "a", tmp_path / "a", 50)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "Basic dTpw"),
    ],
)
def test_mlflows_credentials_are_sent(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with lying(files()) as (uri, seen):
        RestReader(uri).version(Spec(name="guarded", version="1"))
    assert seen == [expected]
