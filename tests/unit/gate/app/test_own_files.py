"""A server whose own files clients could read or replace does not start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_trust import guarded_model, person, signed, trust

from guardrail.errors import InvalidInput
from guardrail.gate import settings
from guardrail.gate.app import apps
from guardrail.gate.app.launch import Launch, check, environment
from guardrail.gate.app.own_files import STORES, Own, database, own, require_outside

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The artifacts' destination."""
    place = tmp_path / "served"
    place.mkdir()
    return place


def _given(served: Path, name: str, place: Path) -> Mapping[str, str]:
    """The environment of a worker with one thing at ``place``."""
    values = {
        "trust": {settings.TRUST: str(place)},
        "root key": {settings.ROOT_KEYS: os.pathsep.join((str(served.parent / "x.pub"), str(place)))},
        "key": {settings.SERVER_KEY: str(place)},
        "key by URI": {settings.SERVER_KEY: f"file:{place}"},
        "public key": {settings.SERVER_PUBLIC_KEY: str(place)},
        "ledger": {settings.LEDGER: str(place)},
        "head": {settings.LEDGER_HEAD: str(place)},
        "work": {settings.WORK: str(place)},
        "backend": {STORES[0]: f"sqlite:///{place}"},
        "backend by URI": {STORES[0]: f"sqlite:///file:{place}?uri=true"},
        "registry": {STORES[1]: f"gated+sqlite:///{place}"},
        "read replica": {STORES[2]: f"sqlite:///{place}"},
        "users": {"MLFLOW_AUTH_CONFIG_PATH": str(place)},
    }
    return values[name]


NAMES = (
    "trust",
    "root key",
    "key",
    "key by URI",
    "public key",
    "ledger",
    "head",
    "work",
    "backend",
    "backend by URI",
    "registry",
    "read replica",
    "users",
)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_servers_own_lies_where_clients_write(served: Path, tmp_path: Path, name: str) -> None:
    require_outside(served, own(_given(served, name, tmp_path / "own")))
    require_outside(served, own(_given(served, name, tmp_path / "served-beside")))
    with pytest.raises(InvalidInput, match="lies below the artifacts' destination"):
        require_outside(served, own(_given(served, name, served / "deep" / "own")))


def test_links_are_followed_in_both_directions(served: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(served)
    (tmp_path / "ledger").symlink_to(served / "ledger")
    (served / "out").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path / "in" / "ledger", tmp_path / "ledger", served / "out", served):
        with pytest.raises(InvalidInput, match=r"outside of it"):
            require_outside(served, [Own("the ledger", place)])
    with pytest.raises(InvalidInput, match="the ledger"):
        require_outside(tmp_path / "in", [Own("the ledger", served / "ledger")])
    require_outside(served, [Own("the ledger", served / ".." / "ledger-2")])


def test_statements_that_lie_elsewhere_than_their_ledger_are_looked_at_too(served: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger.statements").symlink_to(served)
    with pytest.raises(InvalidInput, match="a part of the ledger"):
        require_outside(served, own({settings.LEDGER: str(tmp_path / "ledger")}))


def test_a_relative_database_is_looked_for_where_the_server_runs(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(served)
    with pytest.raises(InvalidInput, match="the database"):
        require_outside(served, database("sqlite:///mlflow.db"))


@pytest.mark.parametrize("uri", ["", "./mlruns", "sqlite://", "sqlite:///:memory:", "postgresql://u@h/db"])
def test_what_is_no_file_lies_nowhere(uri: str) -> None:
    assert list(database(uri)) == []


def test_a_bucket_holds_no_file_of_this_machine(served: Path) -> None:
    require_outside(settings.S3Bucket("b", ""), own({settings.LEDGER: str(served / "ledger")}))


def test_the_launcher_and_the_worker_look(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, decider = person(tmp_path / "k", "root"), person(tmp_path / "k", "decider")
    (tmp_path / "trust").write_bytes(signed(trust(root, decider, [guarded_model("guarded")], now=NOW), root))
    launch = Launch(
        tmp_path / "trust",
        (root.public_file,),
        1,
        f"sqlite:///{served / 'mlflow.db'}",
        str(served),
        str(decider.private_file),
        tmp_path / "ledger",
        tmp_path / "head",
    )
    with pytest.raises(InvalidInput, match="the database"):
        check(launch, NOW)
    inside = replace(launch, backend_store_uri="sqlite:///a.db", ledger=served / "ledger")
    with pytest.raises(InvalidInput, match="the ledger"):
        check(inside, NOW)
    given = {settings.DESTINATION: str(served), settings.SERVES_ARTIFACTS: "true"}
    for name, value in {**environment(inside, {}, Path("report")), **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match="the ledger"):
        apps.install()
    assert not (served / "sealed").exists()
