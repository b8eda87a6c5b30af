"""Fixtures: one gated server for each cell of the matrix, cell after cell; stock servers where tests ask for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bypass_attempt import Attempt
from gate_chains import proven
from gated_servers import PASSWORD, USER, People, Running, gated_server, people, stock_server
from matrix import Cell, absent, visited, whole
from matrix_summary import promotions
from moto_servers import s3_server

from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE
from guardrail.registry.gate.client import GateClient

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Pair:
    """Both servers, and whose keys count on the gated one; the stock one starts when it is first asked for."""

    gated: Running
    people: People
    start: Callable[[], Running]

    @cached_property
    def stock(self) -> Running:
        """Without a gate, otherwise the same."""
        return self.start()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What uses the servers runs in all whole cells; if it is marked ``every_cell``, in the others too."""
    if "pair" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("every_cell")
        metafunc.parametrize("pair", visited() if marked else whole(), indirect=True, ids=str, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """An attempt runs where it applies, and on the stock server where this run shows it."""
    out = [item for item in items if not _has_place(item)]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


def _has_place(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return True
    cell, attempt = (item.callspec.params.get(name) for name in ("pair", "attempt"))
    if not isinstance(cell, Cell) or not isinstance(attempt, Attempt):
        return True
    return attempt.shown(cell) if "spoilt" in getattr(item, "fixturenames", ()) else attempt.applies(cell)


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The servers; the environment holds the administrator's credentials, which plain servers ignore."""
    cell: Cell = request.param
    if why := absent(cell.database):
        pytest.skip(f"cell {cell} not visited: {why}")
    who, make = people(tmp_path_factory.mktemp("people")), tmp_path_factory.mktemp
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        s3 = stack.enter_context(s3_server()) if cell.artifacts == "s3" else None
        gated = stack.enter_context(gated_server(make("gated"), cell, who, s3))
        yield Pair(gated, who, lambda: stack.enter_context(stock_server(make("stock"), cell, s3=s3)))
        promotions(request.config)[str(cell)] = sum(kind == "promotion" for kind in kinds(gated))


@pytest.fixture
def client(pair: Pair) -> MlflowClient:
    """MLflow's own client of the gated server."""
    return client_of(pair.gated)


@pytest.fixture
def gate(pair: Pair) -> GateClient:
    """The gate's own routes."""
    return gate_of(pair.gated)


@pytest.fixture(scope="session")
def workspaces(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stock server with workspaces, for the few attempts that need them."""
    s3 = pair.gated.remote.s3 if pair.gated.remote else None
    with stock_server(tmp_path_factory.mktemp("workspaces"), pair.gated.cell, workspaces=True, s3=s3) as running:
        yield running


def kinds(running: Running) -> list[str]:
    """What every entry of the gated server's ledger is about, in order."""
    entries = (unverified_payload(one, payload_type=LEDGER_TYPE) for one in gate_of(running).ledger())
    return [str(json.loads(entry)["kind"]) for entry in entries]


def client_of(running: Running) -> MlflowClient:
    """MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=running.uri, registry_uri=running.uri)


def gate_of(running: Running) -> GateClient:
    """The gate's own routes."""
    return GateClient(running.uri)


def promoted(running: Running, who: People, directory: Path, model: str, seed: int = 0) -> str:
    """An honest promotion; the version."""
    from guardrail.registry.record.promote import promote

    now = datetime.now(UTC)
    bundle = proven(directory, gate_of(running), who.signers, model=model, now=now, seed=seed)
    record = promote(bundle, tracking_uri=running.uri, private_key=who.decider.private, now=now)
    return str(record.version)
