"""A registry that never ends, seen by what asks it through MLflow's own client: promote, candidate push and pull.

A real MLflow server; the hostile one stands before it and misbehaves at one call after another. Stock MLflow's client
is shown to yield where waiting for it is bearable.
"""

from __future__ import annotations

import itertools
import resource
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from hostile_server import (
    QUICK,
    SLOW,
    Behaviour,
    crowd,
    deep,
    hostile,
    page_of_html,
    redirect_to_itself,
    unavailable_for_years,
)
from registry_bundles import NOW, adapter_directory, sealed
from repository import CAMPAIGN
from signed_runs import record, started
from trust_files import key

from guardrail.errors import EvidenceInvalid, GuardrailError
from guardrail.evidence.keys import key_pairs
from guardrail.pipeline.gate.handover import pull_candidate, push_candidate
from guardrail.pipeline.gate.signing import sign_stage
from guardrail.pipeline.run import Run
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.record.promote import promote

pytestmark = pytest.mark.slow
SECONDS = 5.0
"""Far more than an honest answer takes, on a machine that does other work."""
MEMORY = 400 << 10
STRIDE = 1 if CAMPAIGN else 4
"""Every so manieth call: a promotion makes some thirty, and each walk makes a promotion for each."""
ADAPTERS = itertools.count(1)
"""A seed for each adapter."""
TAKEN = frozenset({deep, page_of_html, crowd})
"""Whole and small: some calls do not look at what they are answered."""


class Server(Protocol):
    """The session's stock server (tests/helpers/servers/mlflow_server.py)."""

    uri: str


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDRAIL_LIMIT_SECONDS", str(SECONDS))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def trained(path: Path) -> Run:
    """A run that may be handed on, with an adapter of its own: what others pushed has another name."""
    now = datetime.now(UTC)
    run = started(path, now=now)
    adapter_directory(run.path / "adapter", next(ADAPTERS))
    for stage in ("data", "train"):
        record(run, stage)
        sign_stage(run, stage, key("train"), now)
    return run


def promoting(folder: Path) -> Callable[[str], object]:
    private, count = key_pairs.load_private(key_pairs.init(folder / "keys").private), itertools.count()

    def once(uri: str) -> object:
        name = f"hostile-{folder.name}-{next(count)}"
        bundle = sealed(folder / name, private, model=name)
        return promote(bundle, tracking_uri=uri, private_key=private, now=NOW)

    return once


def pushing(folder: Path) -> Callable[[str], object]:
    run = trained(folder / "pushed")
    return lambda uri: push_candidate(run.path, tracking_uri=uri, now=datetime.now(UTC))


def pulling(folder: Path) -> Callable[[str], object]:
    run, count = trained(folder / "pushed"), itertools.count()
    name: list[str] = []

    def once(uri: str) -> object:
        if not name:
            name.append(push_candidate(run.path, tracking_uri=uri, now=datetime.now(UTC)).digest)
            return None
        place = folder / f"pulled-{next(count)}"
        try:
            return pull_candidate(name[0], place, tracking_uri=uri, now=datetime.now(UTC))
        except GuardrailError:
            assert not place.exists()
            raise

    return once


COMMANDS = {"promote": promoting, "candidate push": pushing, "candidate pull": pulling}


def code(command: Callable[[str], object], uri: str) -> int:
    """How it ends: 0, or the exit code of its error. Anything else is raised."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        command(uri)
        found = 0
    except GuardrailError as error:
        found = error.exit_code
    assert time.monotonic() - began < 10 * SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_call_may_be_answered_by_anything(server: Server, name: str, tmp_path: Path) -> None:
    command = COMMANDS[name](tmp_path)
    with hostile(server.uri) as between:
        assert code(command, between.uri) == 0
        walk: Iterator[Behaviour] = itertools.cycle(QUICK)
        for number in range(0, 60, STRIDE):
            how = next(walk)
            between.set(number, how)
            found = code(command, between.uri)
            if not between.annoyed:
                assert found == 0
                return
            other = name != "promote"  # a push looks what is there, a pull takes an older one
            allowed = (0, 2, 5, 11) if how in TAKEN or other else (2, 5, 11)
            assert found in allowed, (found, how, between.calls[number])
        assert name == "candidate push", "there is no end of calls"  # each that failed leaves one more to look at


@pytest.mark.parametrize(("how", "name"), zip(SLOW, itertools.cycle(COMMANDS), strict=False))
def test_what_drips_at_any_call_is_given_up(server: Server, name: str, how: Behaviour, tmp_path: Path) -> None:
    command = COMMANDS[name](tmp_path)
    with hostile(server.uri) as between:
        assert code(command, between.uri) == 0
        at = 1 + SLOW.index(how) % (len(between.calls) - 1)
        between.set(at, how)
        assert code(command, between.uri) in ((0, 5) if name == "candidate push" else (5,))


def _stock(uri: str) -> object:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri).get_experiment_by_name("guardrail")


def waits(uri: str, seconds: float) -> bool:
    """Whether MLflow's own client still waits after this time."""
    waiting = threading.Thread(target=partial(_quietly, uri), daemon=True)
    waiting.start()
    waiting.join(seconds)
    return waiting.is_alive()


def _quietly(uri: str) -> None:
    try:
        _stock(uri)
    except Exception:  # whatever it raises, it did not wait
        return


@pytest.mark.parametrize("how", [*SLOW, unavailable_for_years], ids=lambda how: how.__name__)
def test_stock_mlflow_waits_for_what_drips(how: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # a limit between two bytes only; silence ends by it
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    with hostile("http://127.0.0.1:9") as between:
        between.set(0, how)
        assert waits(between.uri, 3.0)


def test_a_redirect_to_itself_is_not_followed(tmp_path: Path) -> None:
    with hostile("http://127.0.0.1:9") as between:
        between.set(0, redirect_to_itself)
        assert code(promoting(tmp_path), between.uri) == 2
        assert len(between.calls) == 1


def test_the_calls_of_one_command_are_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client follows pages by itself (of a metric's history, say), for ever."""
    monkeypatch.setenv("GUARDRAIL_LIMIT_CALLS", "30")

    def ask_for_ever() -> None:
        with client(server.uri, write=True) as opened:
            for _ in itertools.count():
                opened.get_experiment_by_name("guardrail")

    with pytest.raises(EvidenceInvalid, match="asked 30 times"):
        ask_for_ever()
