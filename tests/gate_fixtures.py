"""Fixtures: one gated server and one stock server per cell of the matrix, for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gate_chains import proven
from gated_servers import PASSWORD, USER, Cell, People, Running, cells, gated_server, people, stock_server
from moto_servers import s3_server

from guardrail.registry.gate_client import GateClient

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Pair:
    """Both servers, and whose keys count on the gated one."""

    gated: Running
    stock: Running
    people: People


@pytest.fixture(scope="session", params=cells(), ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The servers; the environment holds the administrator's credentials, which plain servers ignore."""
    cell: Cell = request.param
    who = people(tmp_path_factory.mktemp("people"))
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    os.environ |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    try:
        with ExitStack() as stack:
            s3 = stack.enter_context(s3_server()) if cell.artifacts == "s3" else None
            gated = stack.enter_context(gated_server(tmp_path_factory.mktemp("gated"), cell, who, s3))
            stock = stack.enter_context(stock_server(tmp_path_factory.mktemp("stock"), cell, s3=s3))
            yield Pair(gated, stock, who)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def workspaces(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A stock server with workspaces, for the few attempts that need them."""
    s3 = pair.stock.remote.s3 if pair.stock.remote else None
    with stock_server(tmp_path_factory.mktemp("workspaces"), pair.stock.cell, workspaces=True, s3=s3) as running:
        yield running


def client_of(running: Running) -> MlflowClient:
    """MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=running.uri, registry_uri=running.uri)


def gate_of(running: Running) -> GateClient:
    """The gate's own routes."""
    return GateClient(running.uri)


def promoted(running: Running, who: People, directory: Path, model: str, seed: int = 0) -> str:
    """An honest promotion; the version."""
    from guardrail.registry.promote import promote

    now = datetime.now(UTC)
    bundle = proven(directory, gate_of(running), who.signers, model=model, now=now, seed=seed)
    record = promote(bundle, tracking_uri=running.uri, private_key=who.decider.private, now=now)
    return str(record.version)
