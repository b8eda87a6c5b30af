"""Where uploads may go: the store's own place, and what the user named, in no other spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.registry.mlflow.destinations import VARIABLE, Destinations, destinations, parse

SERVER = "http://mlflow.example.org:5000"
OWN = [
    "mlflow-artifacts:/1",
    "mlflow-artifacts:/1/abc/artifacts",
    "mlflow-artifacts:///1",
    "mlflow-artifacts:/",
    "mlflow-artifacts://mlflow.example.org:5000/1/models/m-1/artifacts",
    "mlflow-artifacts:/workspaces/a_b/1",
]
ELSEWHERE = [
    "s3://attacker/adapters",
    "S3://attacker/adapters",
    "file:///x/y",
    "FILE:///x/y",
    "/x/y",
    "tmp/x",
    "./mlruns",
    "ftp://attacker/x",
    "sftp://me:secret@attacker/x",
    "http://attacker/x",
    "https://mlflow.example.org:5000/x",
    "hdfs://attacker/x",
    "dbfs:/x",
    "gs://attacker/x",
    "wasbs://c@attacker.blob.core.windows.net/x",
    "abfss://c@a/x",
    "mlflow-artifacts://attacker/1",
    "mlflow-artifacts://attacker:5000/1",
    "MLFLOW-ARTIFACTS:/1",
    "Mlflow-Artifacts:/1",
    "mlflow-artifacts://mlflow.example.org/1",
    "mlflow-artifacts://mlflow.example.org:5001/1",
    "mlflow-artifacts://mlflow.example.org:5000@attacker/1",
    "mlflow-artifacts://me:secret@mlflow.example.org:5000/1",
    "mlflow-artifacts://attacker%2f@mlflow.example.org:5000/1",
    "mlflow-artifacts:/../1",
    "mlflow-artifacts:/1/../../x",
    "mlflow-artifacts:/1/%2e%2e/x",
    "mlflow-artifacts:/%2e%2e/x",
    "mlflow-artifacts:/1?x",
    "mlflow-artifacts:/1#x",
    "mlflow-artifacts:/1\\..\\x",
    "mlflow-artifacts:////attacker/1",
    "mlflow-artifacts:/1//x",
    "mlflow-artifacts:1",
    "mlflow-artifacts: /1",
    " mlflow-artifacts:/1",
    "mlflow-artifacts:/1\n",
    "mlflow-artifacts:/1\x00",
    "",
    "runs:/1/x",
    "models:/guarded/1",
    "file:mlflow-artifacts:/1",
    "mlflow-artifacts:/./1",
    "mlflow-artifacts+evil:/1",
]


@pytest.mark.parametrize("location", OWN)
def test_a_server_that_serves_its_artifacts_is_written_through(location: str) -> None:
    Destinations(SERVER).require(location)
    Destinations(f"{SERVER}/").require(location)
    Destinations("http://me:secret@mlflow.example.org:5000").require(location)


@pytest.mark.parametrize("location", ELSEWHERE)
def test_another_place_is_refused_before_anything_is_sent(location: str) -> None:
    with pytest.raises(EvidenceInvalid, match="nothing was sent") as caught:
        Destinations(SERVER).require(location)
    assert caught.value.exit_code == 11
    assert "--artifact-location" in caught.value.message()
    assert "secret" not in caught.value.message()


NAMED = "s3://bucket/team"


@pytest.mark.parametrize("location", [NAMED, f"{NAMED}/", f"{NAMED}/1/abc/artifacts", "mlflow-artifacts:/1"])
def test_a_place_that_the_user_named_is_written_to(location: str) -> None:
    Destinations(SERVER, NAMED).require(location)
    Destinations(SERVER, f"{NAMED}/").require(location)


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/team2",
        "s3://bucket/teamwork/1",
        "s3://bucket",
        "s3://bucket/tea",
        "S3://bucket/team",
        "s3://Bucket/team",
        "s3://bucket/team/../x",
        "s3://bucket/team/%2e%2e/x",
        "s3://bucket.evil/team",
        "s3://bucket@evil/team",
        "s3a://bucket/team",
        "s3://bucket/Team",
        "s3://bucket//team",
        "s3://bucket/team//x",
        "s3://bucket/team?x=1",
        "gs://bucket/team",
        "s3:/bucket/team",
        "s3://evil/s3://bucket/team",
    ],
)
def test_what_only_resembles_it_is_not(location: str) -> None:
    with pytest.raises(EvidenceInvalid):
        Destinations(SERVER, NAMED).require(location)


@pytest.mark.parametrize("named", ["bucket", "s3://bucket/../x", "s3://b%75cket/x", "s3:bucket", "x y", "../x"])
def test_a_name_that_can_be_read_in_two_ways_is_invalid_input(named: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be an artifact location"):
        destinations(SERVER, named)


def test_the_environment_may_name_it_and_the_option_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, NAMED)
    destinations(SERVER).require(f"{NAMED}/1")
    with pytest.raises(EvidenceInvalid):
        destinations(SERVER, "s3://other/x").require(f"{NAMED}/1")


def test_a_sqlite_stores_place_is_beside_it_whatever_links_and_dots_say(tmp_path: Path) -> None:
    home, away = tmp_path / "my store", tmp_path / "away"
    (home / "mlartifacts").mkdir(parents=True)
    away.mkdir()
    (home / "mlartifacts" / "link").symlink_to(away)
    own = Destinations(f"sqlite:///{home}/mlflow.db")
    for good in (home / "mlartifacts" / "guardrail", home / "mlartifacts"):
        own.require(good.as_uri())
        own.require(str(good))
    for bad in (
        away.as_uri(),
        str(away),
        (home / "mlartifacts" / "link" / "x").as_uri(),
        home.as_uri(),
        f"file://{home}/mlartifacts/../../away",
        f"file://{home}/mlartifacts/%2e%2e/%2e%2e/away",
        f"file://evil{home}/mlartifacts",
        f"FILE://{home}/mlartifacts",
        (home / "mlartifacts2").as_uri(),
        f"file://{home}/mlartifacts/%252e%252e/x",
        f"file:{home}/mlartifacts?x",
        "mlflow-artifacts:/1",
        "s3://a/b",
    ):
        with pytest.raises(EvidenceInvalid):
            own.require(bad)
    Destinations(f"sqlite:///{home}/mlflow.db", str(away)).require(away.as_uri())
    Destinations(f"sqlite:///{home}/mlflow.db", away.as_uri()).require(f"{away}/x")


def test_another_databases_place_is_where_mlflow_puts_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Destinations("postgresql://me:secret@host/db")
    own.require((tmp_path / "mlruns" / "1").as_uri())
    with pytest.raises(EvidenceInvalid) as caught:
        own.require("/srv/artifacts/1")
    assert "secret" not in caught.value.message()


@pytest.mark.parametrize("location", ["", "x", "x/y", "s3:", "s3://", ":/x", "1s3:/x", "s3:/ x", "s3:/\u2028x"])
def test_what_is_no_location_has_no_parts(location: str) -> None:
    assert parse(location) is None
