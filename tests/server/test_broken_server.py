"""A registry whose answers break off, decode to nothing or hold null, and addresses that cannot be one.

Every one of them is told with an exit code of its own: never an internal error.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from registry_bundles import NOW

from guardrail.commands.verify import command
from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.keys import key_pairs
from guardrail.registry.gate.client import GateClient
from guardrail.registry.http.address import redacted, require_one_server
from guardrail.registry.mlflow.mlflow_client import client, probe
from guardrail.registry.read.reader import Spec
from guardrail.registry.read.rest_reader import RestReader
from guardrail.registry.verify.verify import verify

SPEC = Spec(name="guarded", version="1")
VERSION = json.dumps(
    {"model_version": {"name": "guarded", "version": "1", "source": "models:/m-1", "status": "READY"}}
).encode()


@dataclass(frozen=True)
class Answer:
    """What goes over the wire; ``length`` is what the header claims where it is not the truth."""

    body: bytes
    status: int = 200
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(answer: Callable[[str], Answer]) -> Iterator[str]:
    """A real server on a port of its own; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = answer(self.path)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            if "Transfer-Encoding" not in told.headers:
                self.send_header("Content-Length", str(len(told.body) if told.length is None else told.length))
            self.end_headers()
            self.wfile.write(told.body)
            self.close_connection = True

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


BROKEN = {
    "short": Answer(VERSION, length=len(VERSION) + 100),
    "no chunks": Answer(b"zz\r\nnonsense", headers={"Transfer-Encoding": "chunked"}),
    "torn chunk": Answer(b"ffff\r\n" + VERSION, headers={"Transfer-Encoding": "chunked"}),
}


@pytest.mark.parametrize("how", list(BROKEN))
@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_that_breaks_is_a_service_that_is_unavailable(how: str, status: int) -> None:
    told = Answer(BROKEN[how].body, status, BROKEN[how].length, BROKEN[how].headers)
    with serving(lambda _: told) as uri, pytest.raises(ServiceUnavailable) as caught:
        RestReader(uri).version(SPEC)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "gzip, gzip", "identity, gzip"])
def test_a_compression_that_nobody_asked_for_is_refused_unread(encoding: str, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    with serving(lambda _: Answer(bomb, headers={"Content-Encoding": encoding})) as uri:
        with pytest.raises(InvalidInput, match="not asked for"):
            RestReader(uri).version(SPEC)
        with pytest.raises(InvalidInput, match="not asked for"):
            RestReader(uri).fetch("m-1", "a", tmp_path / "a", 1 << 30)


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_refusal_whose_reason_breaks_is_still_a_refusal(how: str) -> None:
    told = Answer(BROKEN[how].body, 404, BROKEN[how].length, BROKEN[how].headers)
    with serving(lambda _: told) as uri, pytest.raises(InvalidInput, match="404"):
        RestReader(uri).version(SPEC)


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_file_that_breaks_off_is_a_service_that_is_unavailable(how: str, tmp_path: Path) -> None:
    with serving(lambda _: BROKEN[how]) as uri, pytest.raises(ServiceUnavailable):
        RestReader(uri).fetch("m-1", "a", tmp_path / "a", 1 << 20)


@pytest.mark.parametrize("size", [None, "many", 1.5, -1, True, [], {}, "", "٣" * 5000, "9" * 5000])
def test_a_size_that_is_no_number_is_invalid_evidence(size: object) -> None:
    listed = json.dumps({"files": [{"path": "a", "is_dir": False, "file_size": size}]}).encode()
    with serving(lambda _: Answer(listed)) as uri, pytest.raises(EvidenceInvalid, match="size"):
        RestReader(uri).listing("m-1", "")


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (12, 12), ("12", 12)])
def test_a_size_may_be_a_number_or_its_digits(size: object, expected: int) -> None:
    listed = json.dumps({"files": [{"path": "a", "is_dir": False, "file_size": size}]}).encode()
    with serving(lambda _: Answer(listed)) as uri:
        assert [entry.size for entry in RestReader(uri).listing("m-1", "")] == [expected]


def test_a_directory_needs_no_size() -> None:
    listed = b'{"files": [{"path": "a", "is_dir": true}, {"path": "b", "is_dir": true, "file_size": null}]}'
    with serving(lambda _: Answer(listed)) as uri:
        assert [entry.size for entry in RestReader(uri).listing("m-1", "")] == [0, 0]


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"",
        b'{"model_version": null}',
        b'{"model_version": {"name": null, "tags": null}}',
        b'{"model_version": {"name": "guarded", "version": "1", "source": null, "status": null}}',
        b'{"model_version": {"tags": [null, {"key": null, "value": null}]}}',
        b"\xff",
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_an_answer_that_says_nothing_ends_with_an_exit_code_of_its_own(body: bytes, tmp_path: Path) -> None:
    public = key_pairs.load_public(key_pairs.init(tmp_path / "k").public)
    with serving(lambda _: Answer(body)) as uri, pytest.raises(GuardrailError) as caught:
        verify("guarded/1", tracking_uri=uri, public_keys=[public], now=NOW)
    assert caught.value.exit_code in (2, 11)


UNUSABLE = [
    "http://[bad",
    "http://me:secret@[bad",
    "https://",
    "http://host:99999",
    "http://a b",
    "http://a:b:c",
    "http://host:abc",
    "http://127.0.0.1:0",
    "htp://host:5000",
    "ftp://host/",
    "s3://bucket/mlruns",
    "host:5000",
    "HTTP://host:5000",
    "sqlite:/mlflow.db",
    "sqlite://mlflow.db",
    "postgres://host/db",
    "postgresql://host:abc/db",
    "databricks",
    "databricks://profile",
    "uc:http://host",
    "arn:aws:sagemaker:eu-west-1:1:mlflow-tracking-server/x",
]


@pytest.mark.parametrize("uri", UNUSABLE)
def test_an_address_that_is_none_is_invalid_input(uri: str) -> None:
    for attempt in (lambda: probe(uri, write=True), lambda: RestReader(uri)):
        with pytest.raises(InvalidInput, match="no address") as caught:
            attempt()
        assert "secret" not in caught.value.message()


@pytest.mark.parametrize("uri", UNUSABLE)
def test_the_command_says_so_too(uri: str, tmp_path: Path) -> None:
    key = key_pairs.init(tmp_path / "k").public
    result = CliRunner().invoke(command, ["guarded/1", "--key", str(key), "--tracking-uri", uri])
    assert isinstance(result.exception, InvalidInput), result.exception


@pytest.mark.parametrize(
    ("uri", "meant"), [("localhost:5000", "http://localhost:5000"), ("HTTPS://host/ml", "https://host/ml")]
)
def test_an_address_that_is_nearly_one_says_which(uri: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        probe(uri, write=True)
    assert meant in refused.value.next_step


@pytest.mark.parametrize("write", [True, False])
def test_a_directory_is_no_store(tmp_path: Path, *, write: bool) -> None:
    with pytest.raises(InvalidInput, match="is a directory"):
        probe(f"sqlite:///{tmp_path}", write=write)


@pytest.mark.parametrize(
    ("registry", "tracking"),
    [
        ("http://Host/", "http://host:80"),
        ("https://me:secret@host/ml/", "https://host:443/ml"),
        (f"sqlite:///{Path.cwd()}/x.db", "sqlite:///x.db"),
        ("", "http://host"),
    ],
)
def test_a_registry_that_is_the_same_server_in_another_spelling_is_fine(
    registry: str, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    require_one_server(tracking)


@pytest.mark.parametrize("tracking", ["http://other", "https://host", "http://host:81", "http://host/ml"])
def test_another_server_is_refused_by_both_names_and_without_passwords(
    tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://me:secret@host")
    with pytest.raises(InvalidInput, match="http://host") as refused:
        RestReader(tracking)
    assert tracking in refused.value.got
    assert "secret" not in str(refused.value)


PAGE = b"<html>welcome</html>"
NO_MLFLOW = {
    "nothing there": lambda _: Answer(b"", 404),
    "a page for everything": lambda _: Answer(PAGE),
    "reads only": lambda _: Answer(b"", 501),
}
MLFLOW = {
    "only its API": lambda path: Answer(b"{}") if "/api/" in path else Answer(b"", 404),
    "a page beside its API": lambda path: Answer(b"{}") if "/api/" in path else Answer(PAGE),
    "asks for credentials": lambda path: Answer(b"", 401) if "/api/" in path else Answer(b"", 404),
    "healthy": lambda path: Answer(b"OK") if path == "/health" else Answer(b"", 404),
}


@pytest.mark.parametrize("how", list(NO_MLFLOW))
def test_a_server_that_is_no_mlflow_is_invalid_input_and_not_tried_again(how: str) -> None:
    with serving(NO_MLFLOW[how]) as uri, pytest.raises(InvalidInput, match="not answer like an MLflow server"):
        probe(uri, write=True)


@pytest.mark.parametrize("how", list(MLFLOW))
def test_a_server_that_may_be_an_mlflow_is_asked(how: str) -> None:
    with serving(MLFLOW[how]) as uri:
        probe(uri, write=True)


REFUSED = Answer(b"Invalid Host header - possible DNS rebinding attack detected", 403)


@pytest.mark.parametrize("ask", [lambda uri: RestReader(uri).version(SPEC), lambda uri: GateClient(uri).page()])
def test_a_check_of_the_host_is_called_so_and_no_token_is_advised(ask: Callable[[str], object]) -> None:
    with serving(lambda _: REFUSED) as uri, pytest.raises(InvalidInput, match="Invalid Host header") as refused:
        ask(uri)
    assert f"--allowed-hosts {uri.removeprefix('http://')}" in refused.value.next_step
    assert "TOKEN" not in refused.value.next_step


@pytest.mark.slow
def test_mlflows_own_client_says_so_too() -> None:
    def said(path: str) -> Answer:
        return Answer(b"OK") if path == "/health" else REFUSED

    with serving(said) as uri, pytest.raises(InvalidInput) as refused, client(uri, write=True) as opened:
        opened.search_experiments()
    assert "--allowed-hosts" in refused.value.next_step


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_were_given_are_not_advised_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Answer(b"", status)) as uri:
        with pytest.raises(InvalidInput) as refused:
            RestReader(uri).version(SPEC)
        assert "set MLFLOW_TRACKING_TOKEN" in refused.value.next_step
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
        with pytest.raises(InvalidInput) as again:
            RestReader(uri).version(SPEC)
    assert "correct MLFLOW_TRACKING_TOKEN" in again.value.next_step


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["mssql+pymssql://me:secret@localhost/x", "postgresql+pg8000://me:secret@localhost/x"])
def test_a_database_without_its_driver_is_invalid_input_that_names_the_driver(uri: str) -> None:
    with (
        pytest.raises(InvalidInput, match=r"needs the Python package 'p") as caught,
        client(uri, write=False) as opened,
    ):
        opened.search_experiments()
    assert "secret" not in caught.value.message()


@pytest.mark.slow
def test_a_database_address_that_cannot_be_read_is_invalid_input() -> None:
    with pytest.raises(InvalidInput), client("postgresql://me:secret@[bad/x", write=False) as opened:
        opened.search_experiments()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5/a?token=secret", "http://host:5/a"),
        ("http://me:secret@[bad", "http://[bad"),
        ("postgresql://me:se@cret@[bad/x?password=secret", "postgresql://[bad/x"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("http://", "http://"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_address_is_shown_without_its_password_even_if_it_is_none(uri: str, shown: str) -> None:
    assert redacted(uri) == shown
