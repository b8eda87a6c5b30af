"""Ordinary users on a gated server whose users may do nothing by default: sealed adapters open with the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from gate_chains import proven
from gate_fixtures import client_of, gate_of, promoted
from gate_trust import Person
from gate_world import Said, say
from gated_servers import PASSWORD, USER, People, Running, gated_server, people
from matrix import SERVERS, Cell
from repository import CAMPAIGN

from guardrail.errors import AwaitingApproval
from guardrail.evidence.bundle import Bundle
from guardrail.registry.gate.protocol import PREFIX
from guardrail.registry.read.rest_reader import PROXY
from guardrail.registry.record.promote import promote

pytestmark = pytest.mark.slow
READER, APPROVER, STRANGER = "reader", "approver", "stranger"
MODEL, WAITING, WEIGHTS, WORD = "second", "waiting", "adapter_model.safetensors", "a long enough word"
USERS = (READER, APPROVER, STRANGER)
CELLS = [Cell(server=server, auth="basic-auth") for server in SERVERS]
"""uvicorn asks both of MLflow's ways to judge (files go one way, lists the other); gunicorn only one of them."""


@dataclass(frozen=True)
class Place:
    """A server with a promoted adapter and one that waits; where they are sealed."""

    running: Running
    people: People
    sealed: str
    waits: str
    bundle: Bundle

    def get(self, user: str, route: str, **query: str) -> int:
        """How a user's request ends."""
        return requests.get(f"{self.running.uri}/{route}", params=query, auth=(user, WORD), timeout=60).status_code

    def open_to(self, path: str) -> list[str]:
        """Who may read a file."""
        return [user for user in USERS if self.get(user, f"{PROXY}/{path}") == 200]

    def listed_for(self, path: str) -> list[str]:
        """Who may list a directory."""
        return [user for user in USERS if self.get(user, PROXY, path=path) == 200]

    def say(self, user: str, *words: object) -> Said:
        """A command line of a user's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", user)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", WORD)
            trusting = ("--trust", self.people.trust_file, "--root", self.people.root.public_file)
            return say(*words, *trusting, "--tracking-uri", self.running.uri)


@pytest.fixture(scope="module", params=CELLS if CAMPAIGN else CELLS[:1], ids=str)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Nobody has seen the server before."""
    folder, who = tmp_path_factory.mktemp("place"), people(tmp_path_factory.mktemp("people"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        with gated_server(folder, request.param, who, default_permission="NO_PERMISSIONS") as running:
            version = promoted(running, who, folder / "promoted", MODEL, seed=1)
            bundle = proven(folder / "waits", gate_of(running), who.signers, model=WAITING, seed=2)
            with pytest.raises(AwaitingApproval):
                promote(bundle, tracking_uri=running.uri, private_key=who.decider.private, now=datetime.now(UTC))
            _introduce(running)
            source = str(client_of(running).get_model_version(MODEL, version).source)
            waits = gate_of(running).waiting(WAITING)[0].sealed
            yield Place(running, who, source.removeprefix("mlflow-artifacts:/"), f"sealed/{waits}", bundle)


def _introduce(running: Running) -> None:
    """Users; two of them may read one registered model each, and nothing else."""
    from mlflow.server.auth.client import AuthServiceClient

    users = AuthServiceClient(running.uri)
    for name in USERS:
        users.create_user(name, WORD)
    users.grant_user_permission(READER, "registered_model", MODEL, "READ")
    users.grant_user_permission(APPROVER, "registered_model", WAITING, "READ")


def test_who_may_read_a_model_reads_its_sealed_adapter_and_nobody_else_does(place: Place) -> None:
    for directory, user in ((place.sealed, READER), (place.waits, APPROVER)):
        assert place.open_to(f"{directory}/{WEIGHTS}") == [user]
        assert place.open_to(f"{directory}/{WEIGHTS}".replace("sealed", "%2573ealed")) == [user]
        assert place.listed_for(directory) == [user]
        assert place.listed_for(f"{directory}/evidence") == [user]
    nothing = f"sealed/{'0' * 64}"
    assert [place.get(user, f"{PROXY}/{nothing}/{WEIGHTS}") for user in USERS] == [403] * 3
    assert [place.get(user, PROXY, path=path) for user in USERS for path in (nothing, "sealed", "1")] == [403] * 9


def test_a_reader_changes_nothing(place: Place) -> None:
    url = f"{place.running.uri}/{PROXY}/{place.sealed}/{WEIGHTS}"
    before = place.running.files(place.sealed)
    assert requests.put(url, data=b"evil", auth=(READER, WORD), timeout=60).status_code == 403
    assert requests.delete(url, auth=(READER, WORD), timeout=60).status_code == 403
    assert place.running.files(place.sealed) == before


def test_a_reader_pulls_and_verifies_and_downloads_with_mlflows_client(place: Place, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    pulled = place.say(READER, "pull", f"{MODEL}@production", "--to", tmp_path / "here")
    assert pulled.code == 0, pulled.out
    assert place.say(READER, "verify", f"{MODEL}@production").code == 0
    assert place.say(STRANGER, "verify", f"{MODEL}@production").code != 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", READER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", WORD)
        got = download_artifacts(
            f"mlflow-artifacts:/{place.sealed}", dst_path=str(tmp_path), tracking_uri=place.running.uri
        )
    assert (Path(got) / WEIGHTS).read_bytes() == (tmp_path / "here" / WEIGHTS).read_bytes()


def test_every_user_sees_ledger_statements_and_who_waits(place: Place) -> None:
    for route in ("ledger", "waiting"):
        assert place.get(STRANGER, f"{PREFIX}/{route}") == 200
    assert requests.get(f"{place.running.uri}/{PREFIX}/waiting", timeout=60).status_code == 401


def test_an_approver_looks_before_agreeing_and_goes_on_reading_what_was_agreed_to(place: Place) -> None:
    def agree(who: Person) -> Said:
        words = (
            "approve",
            f"{WAITING}@production",
            "--evidence",
            place.bundle.evidence_sha256,
            "--yes",
            "--reason",
            "so",
        )
        return place.say(APPROVER, *words, "--key", who.private_file)

    for who in place.people.approvers:
        said = agree(who)
        assert said.code == 0, said.out
    assert "promoted" in said.out
    assert place.open_to(f"{place.waits}/{WEIGHTS}") == [APPROVER]
