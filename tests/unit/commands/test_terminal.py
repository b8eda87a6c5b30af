"""Every command, in every output format, shows what servers, files and records say, and nothing of it is obeyed.

The commands run whole, with the error door of ``guardrail.cli.main``. What is hostile comes over real HTTP and from
real files. That every command is tried is asked of the command line itself. The pure functions:
``house/test_printable.py``.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest
from every_command import asks
from fake_gate import FakeGate
from gate_cast import cast
from gate_world import World, world
from hostile_text import ALL, SPELLINGS, leaves, obeyed, with_hostile
from policy_evidence import POLICIES, adapter_record, data_report, evaluation_report, safe_measurements
from ruamel.yaml import YAML
from tiny_models import write_policy

from guardrail.cli import main
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.trust.trust_file import TRUST_TYPE
from guardrail.pipeline.run import JOURNAL, Run, RunConfig
from guardrail.policy.load import find_policy
from guardrail.records import DataReport
from guardrail.registry.gate.protocol import RegistryProblem
from guardrail.registry.mlflow.mlflow_client import AWAITS, DENIES, GATE

pytestmark = pytest.mark.slow

ERRORS = 60
"""Each of these has a next step; more would be a stream."""
FORMATS = ("text", "json")


@dataclass(frozen=True)
class Printed:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


class Command(Protocol):
    """Runs a command line."""

    def __call__(self, *args: object) -> Printed: ...


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line as the console script runs it; whatever is printed must be shown, never obeyed."""

    def run(*args: object) -> Printed:
        monkeypatch.setattr(sys, "argv", ["guardrail", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert not obeyed(captured.out), args
        assert not obeyed(captured.err), args
        assert "internal error" not in captured.err, captured.err
        return Printed(int(ended.value.code or 0), captured.out, captured.err)

    return run


@contextmanager
def refusing(status: int, body: bytes, reason: str = "No") -> Iterator[str]:
    """A server that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status, reason)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815  (the names are http.server's)

        def log_message(self, *_: object) -> None:
            """Tests print what commands print."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def said(text: str) -> bytes:
    """An error as MLflow's REST says it."""
    return json.dumps({"error_code": "PERMISSION_DENIED", "message": text}).encode()


def over_http(folder: Path) -> dict[tuple[str, ...], tuple[object, ...]]:
    """What each command that asks a gated server over plain HTTP is given, but for the server."""
    who = cast(folder)
    key, public = who["ana"].private_file, who["server"].public_file
    vote = ("m@a", "--yes", "--reason", "r", "--key", key, "--decider-key", public)
    return {
        ("approve",): vote,
        ("reject",): vote,
        ("ledger", "fetch"): ("--out", folder / "ledger"),
        ("ledger", "statement"): ("0" * 64,),
        ("registry", "doctor"): (),
        ("registry", "history"): ("m",),
        ("registry", "list"): (),
        ("registry", "revoke"): ("0" * 64, "--yes", "--reason", "r", "--key", key),
        ("registry", "rollback"): ("m@a", "--to", "1", "--yes", "--reason", "r", "--key", key),
        ("registry", "show"): ("m/1", "--key", public),
        ("registry", "waiting"): (),
        ("verify",): ("m/1", "--key", public),
        ("pull",): ("m/1", "--key", public, "--to", folder / "pulled"),
    }


THROUGH_MLFLOW = {("promote",), ("run",), ("candidate", "push"), ("candidate", "pull")}
"""These ask by MLflow's own client, whose errors come through ``registry/mlflow/mlflow_client.py``."""


def test_every_command_that_asks_a_server_is_tried(tmp_path: Path) -> None:
    assert asks("--tracking-uri") == {*over_http(tmp_path), *THROUGH_MLFLOW}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_a_server_refuses_with_is_not_obeyed(spelling: str, tmp_path: Path, command: Command) -> None:
    text = SPELLINGS[spelling]
    answers = [(403, said(begins + text)) for begins in (GATE, DENIES, AWAITS)]
    answers += [(status, said(text)) for status in (200, 400, 401, 503)] + [(500, text.encode("utf-8", "replace"))]
    commands = over_http(tmp_path)
    for number, (status, body) in enumerate(answers):
        with refusing(status, body) as uri:
            for words, given in list(commands.items())[number % 2 :: 2]:  # half of them each, so that all is fast
                found = command(*words, *given, "--tracking-uri", uri)
                assert found.code in (2, 3, 4, 5, 10, 11), (words, found)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("candidate", "pull", "0" * 64), ("candidate", "push"), ("promote",)])
def test_what_mlflow_says_is_not_obeyed(
    words: tuple[str, ...], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = made_run(tmp_path / "run")
    key = cast(tmp_path)["decider"].private_file
    more = ("--key", key) if words == ("promote",) else ()
    where = tmp_path / "new" if "pull" in words else run.path
    for status, body in ((400, said(ALL)), (403, said(GATE + ALL)), (404, ALL.encode())):
        with refusing(status, body) as uri:
            assert command(*words, "--run", where, *more, "--tracking-uri", uri).code in (2, 3, 5, 11)


class Spoiling(FakeGate):
    """A gate in one of whose answers one text is spoiled."""

    spoiled: tuple[str, int] = ("", 0)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        """As the gate that it is, but for that text."""
        data = super().answer(method, path, query, body)
        route, chosen = self.spoiled
        if route and path.endswith(route):
            return json.dumps(with_hostile(json.loads(data), chosen, ALL), ensure_ascii=False).encode()
        return data


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A server with a version, a candidate that waits, and problems."""
    monkeypatch.setattr("gate_world.FakeGate", Spoiling)
    with world(tmp_path, approvals=1) as made:
        made.gate.promote(made.admit())
        made.admit(seed=1)
        made.gate.problems = (
            RegistryProblem(where="version 1", what="its file is gone", finish="guardrail registry revoke"),
        )
        yield made


READING: dict[str, tuple[tuple[object, ...], ...]] = {
    "doctor": (("registry", "doctor"),),
    "waiting": (
        ("registry", "list"),
        ("registry", "waiting"),
        ("approve", "guarded@production", "--reason", "so", "--yes"),
        ("reject", "guarded@production", "--reason", "so", "--yes"),
    ),
    "ledger": (("registry", "history", "guarded"),),
    "model-versions/get": (("registry", "show", "guarded/1"), ("verify", "guarded/1")),
    "registered-models/alias": (("registry", "list"), ("verify", "guarded@production")),
    "artifacts": (("verify", "guarded/1"),),
}


@pytest.mark.parametrize("output", FORMATS)
@pytest.mark.parametrize("route", READING)
def test_no_text_of_any_answer_is_obeyed(route: str, output: str, two: World, command: Command) -> None:
    gate = two.gate
    assert isinstance(gate, Spoiling)
    for words in READING[route]:
        keys = two.key("ana") if words[0] in ("approve", "reject") else ()
        more = () if words[1] in ("doctor", "waiting") else two.by_trust
        for chosen in range(40):
            gate.spoiled = (route, chosen)
            command(*words, *keys, *more, *two.server, "--output", output)


@pytest.mark.parametrize("output", FORMATS)
def test_reasons_and_problems_are_shown_and_not_obeyed(output: str, two: World, command: Command) -> None:
    """They are signed or sealed as they are, so no check refuses them: the door alone stands between."""
    text = ALL[:2000]
    two.gate.problems = tuple(RegistryProblem(where=text, what=text, finish=text) for _ in range(2))
    two.gate.note("revocation", subject="0" * 64, statement="0" * 64, note="so")
    found = command("registry", "doctor", *two.server, "--output", output)
    assert found.code == 11
    assert "FORGED" in found.out
    done = command(
        "reject", "guarded@production", "--reason", text, "--yes", *two.key("ana"), *two.by_trust, *two.server
    )
    assert done.code == 0, done
    shown = command("registry", "history", "guarded", *two.by_trust, *two.server, "--output", output)
    assert shown.code == 0
    assert "FORGED" in shown.out
    order = (
        "registry",
        "revoke",
        "--yes",
        "guarded/1",
        "--reason",
        text,
        *two.key("ana"),
        *two.server,
        "--output",
        output,
    )
    assert "FORGED" in "".join((command(*order).out, command(*order).err))


def test_json_of_a_hostile_record_is_the_record(two: World, command: Command) -> None:
    two.gate.problems = (RegistryProblem(where=ALL, what="x", finish=""),)
    printed = json.loads(command("registry", "doctor", *two.server, "--output", "json").out)
    assert printed["problems"][0]["where"] == ALL


def spoiled_policies() -> Iterator[bytes]:
    """The built-in policy with one text spoiled, then with one key; JSON is YAML."""
    data = YAML(typ="safe", pure=True).load(POLICIES / "default.yaml")
    for chosen in range(leaves(data)):
        yield json.dumps(with_hostile(data, chosen, ALL)).encode()
    for key in data:
        yield json.dumps({(f"{name}{ALL}" if name == key else name): value for name, value in data.items()}).encode()


@pytest.mark.parametrize("output", FORMATS)
def test_no_text_of_a_policy_is_obeyed(output: str, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "policy.yaml"
    for data in spoiled_policies():
        file.write_bytes(data)
        assert command("policy", "check", file, "--output", output).code in (0, 2)
        command("policy", "show", file)
    file.write_text((POLICIES / "default.yaml").read_text() + "# \u202eright to left\n# ##[error]x\n")
    shown = command("policy", "show", file)
    assert "\\u202e" in shown.out
    assert "copy the file itself" in shown.err


def test_a_policy_that_hides_nothing_is_shown_byte_by_byte(command: Command) -> None:
    for name in ("default", "strict"):
        assert command("policy", "show", name) == Printed(0, find_policy(name).bytes.decode(), "")


@pytest.mark.parametrize("output", FORMATS)
def test_no_text_of_a_trust_file_is_obeyed(output: str, tmp_path: Path, command: Command) -> None:
    who = cast(tmp_path)
    data = json.loads(canonical(who.trust(datetime.now(UTC))))
    for chosen in range(leaves(data)):
        file = tmp_path / "trust.json"
        payload = json.dumps(with_hostile(data, chosen, ALL)).encode()
        file.write_bytes(sign(payload, who["root"].private, payload_type=TRUST_TYPE))
        command("trust", "show", file, "--output", output)
        command("trust", "check", file, "--root", who["root"].public_file, "--threshold", "1", "--output", output)


def made_run(path: Path) -> Run:
    """A run whose stages have recorded."""
    run, policy = Run(path), find_policy("default")
    run.start(policy, RunConfig(policy_source="default", base="testbed"))
    data = data_report(policy.digest)
    adapter = adapter_record(policy.digest, data)
    run.write("data-report", data)
    run.write("adapter", adapter)
    run.write("evaluation-report", evaluation_report(policy.digest, adapter, safe_measurements()))
    return run


@pytest.mark.parametrize("name", ["data-report", "adapter", "evaluation-report", "run", "ticket"])
def test_no_text_of_a_run_is_obeyed_in_any_format(name: str, tmp_path: Path, command: Command) -> None:
    """Whoever writes the directory writes its journal, too; the report beside it is looked at as well."""
    run = made_run(tmp_path / "run")
    file = run.path / f"{name}.json"
    data = json.loads(file.read_bytes()) if file.exists() else {"model": "m", "alias": "a", "nonce": "n"}
    for chosen in range(min(leaves(data), ERRORS)):
        spoiled = json.dumps(with_hostile(data, chosen, ALL)).encode()
        file.write_bytes(spoiled)
        with (run.path / JOURNAL).open("a") as journal:
            journal.write(f"{sha256(spoiled)}  {name}\n")
        for output in FORMATS:
            command("promote", "--dry-run", "--run", run.path, "--output", output)
        for report in run.path.glob("report.*"):
            assert not obeyed(report.read_text(encoding="utf-8")), (report, chosen)


def data_files(folder: Path) -> Iterator[Path]:
    """Training data that is hostile in its name, its columns, its values, or that is broken in a hostile way."""
    rows: dict[str, Callable[[str], str]] = {
        "value.jsonl": lambda text: json.dumps({"prompt": text, "completion": text}),
        "key.jsonl": lambda text: json.dumps({f"prompt{text}": "a", "completion": "b"}),
        "role.jsonl": lambda text: json.dumps({"messages": [{"role": text, "content": text}]}),
        "broken.jsonl": lambda text: "{" + text,
        "bare.json": lambda text: json.dumps([{text: text}]),
        "columns.csv": lambda text: f'"prompt{text}","completion"\r\na,b\r\n',
        "quotes.csv": lambda text: f'prompt,completion\r\n"{text}',
        "one.tsv": lambda text: f"{text}\t{text}\n",
        "fake.parquet": lambda text: text,
    }
    for name, row in rows.items():
        (folder / name).write_text(row(ALL), encoding="utf-8")
        yield folder / name
    for name in ("a\x1b[2J\r\n::error::b##[error]", "a\u202eb\u2028c\x9b31m", "a\udc9b##vso[x]"):
        odd = folder / f"{name}.jsonl"
        odd.write_text(json.dumps({"prompt": "a", "completion": "b"}))
        yield odd
    for spelling in SPELLINGS.values():
        yield folder / f"{spelling}.missing"


@pytest.mark.slow
def test_no_name_column_or_value_of_data_is_obeyed(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is the testbed's; what the detectors find is not asked here."""
    monkeypatch.chdir(tmp_path)
    policy = write_policy(tmp_path / "p")
    for number, file in enumerate(data_files(tmp_path)):
        given = ("data", "validate", file, "--run", tmp_path / f"run-{number}", "--policy", policy)
        command(*given, "--output", FORMATS[number % 2])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_was_typed_is_not_obeyed(spelling: str, tmp_path: Path, command: Command) -> None:
    """A CI job puts a branch's name or a variable's value into a command line."""
    text = SPELLINGS[spelling]
    file = tmp_path / text.replace("/", "|")[:60]
    for words in (
        ("verify", text, "--key", tmp_path / "none"),
        ("policy", "check", text),
        ("policy", "show", text),
        ("trust", "show", file),
        ("keys", "show", text),
        ("--" + text,),
        (text,),
        ("registry", "list", "--tracking-uri", text),
        ("train", "--run", tmp_path / "no", "--set", text),
        ("promote", "--run", file, "--dry-run"),
        ("testbed", "data", text, "--file", "x"),
        ("registry", "rollback", "m@a", "--to", text),
        ("train", "--method", text, "--run", tmp_path / "no"),
    ):
        assert command(*words).code in (2, 3, 5, 11), words


def test_a_traceback_is_not_obeyed_either(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError(ALL)

    monkeypatch.setattr("guardrail.policy.load.find_policy", broken)
    for words in (("policy", "show"), ("--debug", "policy", "show")):
        monkeypatch.setattr(sys, "argv", ["guardrail", *words])
        with pytest.raises(SystemExit):
            main()
        captured = capfd.readouterr()
        assert "internal error: RuntimeError" in captured.err
        assert not [line for line in captured.err.split("\n") if not line.replace("\t", "").isprintable()]
        assert not [line for line in captured.err.split("\n") if line.lstrip().startswith("::") or "##[" in line]


def test_a_record_of_a_run_reads_back_as_it_is(tmp_path: Path) -> None:
    """Only what is shown is escaped: what is stored keeps its bytes."""
    run = made_run(tmp_path / "run")
    report = run.require("data-report", DataReport).model_copy(update={"source": ALL})
    run.write("data-report", report)
    assert run.require("data-report", DataReport).source == ALL
