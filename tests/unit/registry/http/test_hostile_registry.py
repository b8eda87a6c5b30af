"""A registry that never ends: every client command ends with a message and an exit code of its own, in time and memory.

The hostile server stands before an honest one and misbehaves at each call of a command in turn.
"""

from __future__ import annotations

import itertools
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from gate_world import Said, World, say, world
from hostile_server import BEHAVIOURS, MAY_BE_TAKEN, OK, SLOW, Behaviour, Hostile, Wire, answering, hostile, raw
from repository import ROOT
from signed_runs import record, started
from trust_files import key

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.pipeline.gate.signing import bind, sign_stage
from guardrail.registry.gate.client import GateClient
from guardrail.registry.http.limits import AnswerLimits, limits, variable
from guardrail.registry.http.transport import Transport
from guardrail.registry.read.reader import Spec, StoredFile, download
from guardrail.registry.read.rest_reader import RestReader, RestRunFiles

pytestmark = pytest.mark.slow

SECONDS = 1.0
PATIENT = 10.0
"""What a command may take that meets one hostile answer, on a machine that does other work."""
MEMORY = 300 << 10
"""Kilobytes by which the largest size of this process may grow."""
FAST = AnswerLimits(seconds=5, total_seconds=30)
FASTER = AnswerLimits(seconds=0.4, total_seconds=30)
"""For answers of which none is honest."""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDRAIL_LIMIT_SECONDS", str(SECONDS))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextmanager
def bounded() -> Iterator[None]:
    """In time, and in memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - began < PATIENT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


Command = Callable[[World, str], Said]


def by_key(*what: object) -> Command:
    return lambda w, uri: say(*what, "--key", w.who["decider"].public_file, "--tracking-uri", uri)


def by_trust(*what: object) -> Command:
    return lambda w, uri: say(*what, *w.by_trust, "--tracking-uri", uri)


def by_person(*what: object, trusting: bool = False) -> Command:
    return lambda w, uri: say(*what, *w.key("ana"), *(w.by_trust if trusting else ()), "--tracking-uri", uri)


def pulled(w: World, uri: str) -> Said:
    said = say("pull", "guarded@production", "--to", w.folder / "pulled", *w.by_trust, "--tracking-uri", uri)
    assert (w.folder / "pulled").exists() == (said.code == 0)
    return said


def validated(w: World, uri: str) -> Said:
    signer, place = w.who["trainer"].private_file, w.folder / f"run-{time.monotonic_ns()}"
    return say("data", "validate", "testbed:sums", "--run", place, "--gate", uri, "--sign-key", signer)


def ran(w: World, uri: str) -> Said:
    signer = w.who["trainer"].private_file
    place = w.folder / f"run-{time.monotonic_ns()}"
    return say("run", "testbed:sums", "--task", "sentiment", "--run", place, "--gate", uri, "--key", signer)


def a_statement(w: World) -> str:
    """The digest of something that was handed in."""
    return min(path.name for path in (w.gate.root / "statements").iterdir())


def evaluated(w: World, uri: str) -> Said:
    """What ``evaluate --gate`` asks before it measures anything."""
    now = datetime.now(UTC)
    run = started(w.folder / f"run-{time.monotonic_ns()}", now=now)
    for stage in ("data", "train"):
        record(run, stage)
        sign_stage(run, stage, key("train"), now)
    try:
        bind(run, uri, now)
    except GuardrailError as error:
        return Said(error.exit_code, error.message(), "")
    return Said(0, "", "")


COMMANDS: dict[str, Command] = {
    "verify by a key": by_key("verify", "guarded@production"),
    "verify by a trust file": by_trust("verify", "guarded@production"),
    "pull": pulled,
    "registry list": by_trust("registry", "list"),
    "registry show": by_trust("registry", "show", "guarded@production"),
    "registry history": by_trust("registry", "history", "guarded"),
    "registry doctor": lambda _, uri: say("registry", "doctor", "--tracking-uri", uri),
    "ledger fetch": lambda w, uri: say("ledger", "fetch", "--out", w.folder / "copy", "--tracking-uri", uri),
    "registry rollback": by_person("registry", "rollback", "--yes", "guarded@production", "--to", "1", "--reason", "r"),
    "registry revoke": by_person("registry", "revoke", "--yes", "guarded/1", "--reason", "it leaks"),
    "registry waiting": lambda _, uri: say("registry", "waiting", "--tracking-uri", uri),
    "ledger statement": lambda w, uri: say("ledger", "statement", a_statement(w), "--tracking-uri", uri),
}
PERSONS: dict[str, Command] = {
    name: by_person(name, "guarded@production", "--yes", "--reason", "r", trusting=True)
    for name in ("approve", "reject")
}
STARTING: dict[str, Command] = {"data validate --gate": validated, "run --gate": ran, "evaluate --gate": evaluated}


def walk_through(made: World, command: Command, behaviours: Iterator[Behaviour], most: int) -> None:
    """Be hostile at the first call, the second, and so on, until the command needs no more of them."""
    with hostile(made.gate.uri) as server:
        for number in range(most):
            how = next(behaviours)
            server.set(number, how)
            with bounded():
                said = command(made, server.uri)
            if not server.annoyed:
                assert said.code == 0, said.out
                return
            assert_refused(said, server, how)
            if said.code == 0 and command in PERSONS.values():  # decided: something else must wait
                made.admit(seed=10 + number)


def assert_refused(said: Said, server: Hostile, how: Behaviour) -> None:
    assert server.annoyed, said.out
    where = f"{how.__name__} at {server.calls[server.at]}: {said.out}"
    if (
        said.code == 0
    ):  # without a checkpoint the whole ledger is read, which says more; a revocation goes on without it
        assert server.calls[server.at].endswith("/checkpoint") or "NOT KNOWN" in said.out, where
        return
    assert said.code in (2, 5, 11), where
    assert "expected:" in said.out or "next:" in said.out or "does not answer like" in said.out, where


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_whatever_one_answer_is(name: str, tmp_path: Path) -> None:
    start = list(COMMANDS).index(name) * 5
    with world(tmp_path) as made:
        made.admit()
        made.admit(seed=1)
        walk_through(made, COMMANDS[name], itertools.islice(itertools.cycle(BEHAVIOURS), start, None), 40)


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("name", PERSONS)
def test_a_person_who_is_asked_is_not_left_waiting(name: str, tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        made.admit()
        start = 3 * len(name)
        walk_through(made, PERSONS[name], itertools.islice(itertools.cycle(BEHAVIOURS), start, None), 40)


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("how", BEHAVIOURS, ids=lambda how: how.__name__)
@pytest.mark.parametrize("name", STARTING)
def test_a_stage_does_not_wait_for_its_gate(name: str, how: Behaviour, tmp_path: Path) -> None:
    with world(tmp_path) as made, hostile(made.gate.uri) as server:
        server.set(0, how)
        began = time.monotonic()
        said = STARTING[name](made, server.uri)  # it may have loaded a base before it asks
        assert time.monotonic() - began < 10 * PATIENT
        assert_refused(said, server, how)


ASKED: dict[str, Callable[[str, Path], object]] = {
    "version": lambda uri, _: RestReader(uri, FASTER).version(Spec(name="a", version="1")),
    "listing": lambda uri, _: RestReader(uri, FASTER).listing("m-1", ""),
    "file": lambda uri, place: RestReader(uri, FASTER).fetch("m-1", "a", place / "a", 1 << 20),
    "ledger": lambda uri, _: GateClient(uri, FASTER).page(),
    "doctor": lambda uri, _: GateClient(uri, FASTER).health(),
}


@pytest.mark.parametrize("how", BEHAVIOURS, ids=lambda how: how.__name__)
def test_every_way_not_to_answer_has_its_exit_code(how: Behaviour, tmp_path: Path) -> None:
    with hostile("http://127.0.0.1:9") as server:
        for what, ask in list(ASKED.items())[: 2 if how in SLOW else None]:
            server.set(0, how)
            with bounded():
                code = _code(partial(ask, server.uri, tmp_path))
            taken = how in MAY_BE_TAKEN and what in ("version", "file", "listing")
            assert code in ((0, 2, 5, 11) if taken else (2, 5, 11)), (what, code)


def _code(ask: Callable[[], object]) -> int:
    try:
        ask()
    except (EvidenceInvalid, InvalidInput, ServiceUnavailable) as error:
        return error.exit_code
    return 0


def pages(name: Callable[[int], str]) -> Callable[[str, Wire], None]:
    count = itertools.count()

    def answer(path: str, wire: Wire) -> None:
        number = next(count)
        wire.send(answering({"files": [], "next_page_token": name(number)}))

    return answer


ENDLESS = {
    "a new page each time": lambda number: f"page {number}",
    "the same page for ever": lambda _: "again",
    "two pages that name each other": lambda number: "ab"[number % 2],
    "a name of a megabyte": lambda _: "x" * (1 << 20),
    "a number": lambda number: str(number),
}


@pytest.mark.parametrize("how", ENDLESS)
@pytest.mark.parametrize("kind", [RestReader, RestRunFiles])
def test_pages_without_an_end_are_refused(how: str, kind: type[RestReader]) -> None:
    with raw(pages(ENDLESS[how])) as uri, bounded(), pytest.raises(EvidenceInvalid, match="pages"):
        kind(uri, replace(FAST, pages=50)).listing("m-1", "")


def listed(*entries: dict[str, object]) -> bytes:
    return answering({"files": list(entries)})


def below(path: str, name: str, **more: object) -> dict[str, object]:
    directory = path.partition("artifact_directory_path=")[2].replace("%2F", "/")
    return {"path": f"{directory}/{name}".lstrip("/"), "is_dir": True, **more}


FOLDERS: dict[str, Callable[[str], list[dict[str, object]]]] = {
    "folders within folders": lambda path: [below(path, "again")],
    "a folder that holds itself": lambda _: [{"path": "self", "is_dir": True}],
    "a folder that is its parent": lambda _: [{"path": "..", "is_dir": True}],
    "ten folders in each": lambda path: [below(path, f"d{number}") for number in range(10)],
    "a name of a megabyte": lambda _: [{"path": "x" * (1 << 20), "file_size": 1}],
    "a name of 251 characters": lambda _: [{"path": "x" * 251, "file_size": 1}],
    "the same file twice": lambda _: [{"path": "x", "file_size": 1}] * 2,
    "a hundred thousand files": lambda _: [{"path": f"f{number}", "file_size": 1} for number in range(100_000)],
    "files of sixty-five gibibytes": lambda _: [{"path": "x", "file_size": 65 << 30}],
}


@pytest.mark.parametrize("how", FOLDERS)
def test_folders_without_an_end_are_refused_before_anything_is_fetched(how: str, tmp_path: Path) -> None:
    with (
        raw(lambda path, wire: wire.send(listed(*FOLDERS[how](path)))) as uri,
        bounded(),
        pytest.raises(EvidenceInvalid),
    ):
        download(RestReader(uri, replace(FAST, seconds=5, total_seconds=60)), "m-1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows_beyond_what_was_listed_is_not_taken(tmp_path: Path) -> None:
    def answer(path: str, wire: Wire) -> None:
        if "directories" in path:
            wire.send(listed({"path": "x", "file_size": 10}))
        else:
            wire.send(OK + b"\r\n")
            wire.for_ever(b"x" * (1 << 20))

    with raw(answer) as uri, bounded(), pytest.raises(EvidenceInvalid, match="limit of 10 bytes"):
        download(RestReader(uri, FAST), "m-1", tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) <= 10


def test_files_that_do_not_fit_the_disk_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDRAIL_LIMIT_BYTES", str(1 << 62))
    entry = {"path": "x", "file_size": 1 << 61}
    with raw(lambda _, wire: wire.send(listed(entry))) as uri, pytest.raises(ServiceUnavailable, match="free"):
        download(RestReader(uri, FAST), "m-1", tmp_path)


def endless_ledger(_: str, wire: Wire) -> None:
    wire.send(answering({"envelopes": ["x" * 100] * 100, "head": None}))


@pytest.mark.parametrize(
    ("limit", "match"),
    [
        ({"ledger_entries": 1000}, "more than 1000 entries"),
        ({"ledger_bytes": 100_000}, "more than 100000 bytes"),
        ({"calls": 10}, "asked 10 times"),
    ],
)
def test_a_ledger_without_an_end_is_refused(limit: dict[str, int], match: str) -> None:
    with raw(endless_ledger) as uri, bounded(), pytest.raises(EvidenceInvalid, match=match) as caught:
        list(GateClient(uri, replace(FAST, **limit)).ledger())
    assert "GUARDRAIL_LIMIT_" in caught.value.message()


def test_a_ledger_that_comes_slowly_ends_with_the_commands_time() -> None:
    def slow(_: str, wire: Wire) -> None:
        wire.closing.wait(0.3)
        endless_ledger(_, wire)

    with raw(slow) as uri, bounded(), pytest.raises(ServiceUnavailable, match=r"in sum|within"):
        list(GateClient(uri, replace(FAST, total_seconds=1)).ledger())


def test_a_ledger_is_seen_to_come() -> None:
    seen: list[int] = []
    with raw(endless_ledger) as uri, pytest.raises(EvidenceInvalid):
        list(GateClient(uri, replace(FAST, ledger_entries=300)).ledger(progress=seen.append))
    assert seen == [100, 200, 300]


def test_no_cookie_is_sent_back_and_no_compression_is_asked_for() -> None:
    with hostile("http://127.0.0.1:9") as server:
        heard: list[str] = []

        def cookie(wire: Wire) -> None:
            heard.append(server.calls[-1])
            body = b"Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}"
            wire.send(OK + body)

        transport = Transport(server.uri, FAST)
        server.set(0, cookie)
        assert transport.ask("GET", "x").body == b"{}"
        assert not list(transport._session.cookies)
        assert transport._session.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", "1.5", "1_000", " 7 "])
def test_a_limit_that_is_no_number_is_refused(value: str) -> None:
    given = {"GUARDRAIL_LIMIT_FILES": value}
    if value in ("1_000", " 7 "):
        assert limits(given).files in (1000, 7)
        return
    with pytest.raises(InvalidInput, match="GUARDRAIL_LIMIT_FILES"):
        limits(given)


class Giant:
    """A thousand and one files, all empty."""

    def listing(self, root: str, directory: str) -> tuple[StoredFile, ...]:
        del root, directory
        return tuple(StoredFile(path=f"f{number}", is_dir=False, size=0) for number in range(1001))

    def fetch(self, root: str, path: str, target: Path, limit: int) -> int:
        del root, path
        target.touch()
        return limit


def test_an_honest_giant_is_let_in_by_a_higher_limit(tmp_path: Path) -> None:
    with pytest.raises(EvidenceInvalid, match="GUARDRAIL_LIMIT_FILES"):
        download(Giant(), "m-1", tmp_path / "no")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GUARDRAIL_LIMIT_FILES", "2000")
        (tmp_path / "yes").mkdir()
        download(Giant(), "m-1", tmp_path / "yes")
    assert len(list((tmp_path / "yes").iterdir())) == 1001


def test_the_page_names_every_limit_and_its_default() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    for field in fields(AnswerLimits):
        assert re.search(rf"^\| `{variable(field.name)}` \| .* \| {field.default:.0f} \|$", page, re.MULTILINE), (
            field.name
        )
