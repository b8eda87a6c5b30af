"""The experiment that promotions write to: the gate owns it, and clients look where they write."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import requests
from gate_chains import proven
from gate_fixtures import Pair, client_of, gate_of, promoted
from registry_bundles import NOW, sealed

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.keys import key_pairs
from guardrail.gate.store import gate_experiments
from guardrail.records import Verdict
from guardrail.registry.mlflow.mlflow_client import GATE, client
from guardrail.registry.record.promote import promote

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow


class Server(Protocol):
    """The session's stock server (tests/helpers/servers/mlflow_server.py)."""

    uri: str


@dataclass
class Mailbox:
    """An attacker's server: takes whatever is sent to it."""

    uri: str = ""
    received: list[bytes] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.uri.removeprefix("http://")


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    made = Mailbox()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            made.received.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_response(200)
            self.send_header("ETag", "x")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PUT = do_POST = do_GET = _take  # noqa: N815 - the names are http.server's

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with _listening(Handler) as made.uri:
        yield made


@dataclass(frozen=True)
class Answered:
    """What a server says instead."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Rewrite = Callable[[str, str, bytes], Answered | None]
"""Of a method, a path and the honest answer."""


@contextmanager
def rewriting(upstream: str, rewrite: Rewrite) -> Iterator[str]:
    """A server that answers as ``upstream`` does, but for what ``rewrite`` answers itself."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            done = requests.request(self.command, upstream + self.path, data=body, headers=given, timeout=60)
            honest = Answered(done.content, done.status_code)
            said = rewrite(self.command, self.path, done.content) or honest
            self.send_response(said.status)
            for name, value in {"Content-Type": "application/json", **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        do_PUT = do_POST = do_GET = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with _listening(Handler) as uri:
        yield uri


@contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


PLACES: dict[str, Callable[[Path], str]] = {
    "file://": lambda place: place.as_uri(),
    "a plain path": str,
    "file:": lambda place: f"file:{place}",
    "file://localhost": lambda place: f"file://localhost{place}",
    "a percent-encoded path": lambda place: f"file://{place.parent}/%{ord(place.name[0]):02x}{place.name[1:]}",
}
"""What a stock server takes for an experiment's artifacts."""
HOSTS: dict[str, Callable[[Mailbox], str]] = {
    "mlflow-artifacts://attacker": lambda box: f"mlflow-artifacts://{box.host}/x/",
    "MLFLOW-ARTIFACTS://attacker": lambda box: f"MLFLOW-ARTIFACTS://{box.host}/x/",
    "mlflow-artifacts://user:password@attacker": lambda box: f"mlflow-artifacts://a:b@{box.host}/x/",
    "http://attacker": lambda box: f"{box.uri}/api/2.0/mlflow-artifacts/artifacts/x/",
    "HTTP://attacker": lambda box: f"HTTP://{box.host}/api/2.0/mlflow-artifacts/artifacts/x/",
}
"""What only a server names that lies itself, or has MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES."""


def arrived(place: Path, box: Mailbox) -> bool:
    """Whether anything came to the attacker."""
    return bool(box.received) or any(path.is_file() for path in place.rglob("*"))


@pytest.fixture
def pair_of_keys(tmp_path: Path) -> key_pairs.PrivateKey:
    return key_pairs.load_private(key_pairs.init(tmp_path / "keys").private)


@pytest.mark.parametrize("how", PLACES)
def test_stock_mlflow_sends_an_adapter_to_whoever_made_the_experiment_first(
    server: Server, how: str, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    place, name = tmp_path / "attacker", f"first {how} {tmp_path.name}"
    place.mkdir()
    with client(server.uri, write=True) as opened:
        opened.create_experiment(name, artifact_location=PLACES[how](place))
    with pytest.raises(EvidenceInvalid, match="nothing was sent") as caught:
        promote(
            sealed(tmp_path / "a", pair_of_keys),
            tracking_uri=server.uri,
            private_key=pair_of_keys,
            now=NOW,
            experiment=name,
        )
    assert caught.value.exit_code == 11
    assert not arrived(place, Mailbox())
    _stock_upload(server.uri, name, tmp_path / "a")
    assert arrived(place, Mailbox())


@pytest.mark.parametrize("how", HOSTS)
def test_stock_mlflow_sends_an_adapter_to_whatever_host_its_server_names(
    server: Server, how: str, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    with mailbox() as box, rewriting(server.uri, _moved("", HOSTS[how](box).rstrip("/"))) as uri:
        with pytest.raises(EvidenceInvalid, match="nothing was sent"):
            promote(sealed(tmp_path / "a", pair_of_keys), tracking_uri=uri, private_key=pair_of_keys, now=NOW)
        assert box.received == []
        _stock_upload(uri, "Default", tmp_path / "a")
        assert box.received != []


def _stock_upload(uri: str, experiment: str, directory: Path) -> None:
    from mlflow import MlflowClient

    stock = MlflowClient(tracking_uri=uri)
    found = stock.get_experiment_by_name(experiment)
    assert found is not None
    run = stock.create_run(found.experiment_id)
    stock.log_artifacts(run.info.run_id, str(directory))


def test_a_place_that_the_user_names_is_written_to(
    server: Server, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    place, name = tmp_path / "ours", f"named {tmp_path.name}"
    with client(server.uri, write=True) as opened:
        opened.create_experiment(name, artifact_location=place.as_uri())
    denied = sealed(tmp_path / "a", pair_of_keys, safe=False, model=f"named-{tmp_path.name}")
    record = promote(
        denied,
        tracking_uri=server.uri,
        private_key=pair_of_keys,
        now=NOW,
        experiment=name,
        artifact_location=place.as_uri(),
    )
    assert record.verdict is Verdict.FAILED
    assert arrived(place, Mailbox())


def _moved(what: str, evil: str) -> Rewrite:
    def rewrite(_: str, path: str, body: bytes) -> Answered | None:
        if what in path and b"mlflow-artifacts:/" in body:
            return Answered(body.replace(b"mlflow-artifacts:/", f"{evil}/".encode()))
        return None

    return rewrite


@pytest.mark.parametrize("what", ["runs/create", "runs/get", "logged-models", "experiments/get"])
def test_a_server_that_names_another_place_later_gets_no_adapter(
    server: Server, what: str, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    """The experiment looks as it should; the run or the logged model says otherwise."""
    place = tmp_path / "attacker"
    place.mkdir()
    model = f"later-{tmp_path.name}"
    with rewriting(server.uri, _moved(what, place.as_uri())) as uri:
        bundle = sealed(tmp_path / "a", pair_of_keys, model=model)
        looked_at = what != "runs/create"
        with pytest.raises(EvidenceInvalid, match="nothing was sent") if looked_at else nullcontext():
            promote(bundle, tracking_uri=uri, private_key=pair_of_keys, now=NOW)
    assert not arrived(place, Mailbox())


def test_an_upload_that_is_redirected_goes_nowhere(
    server: Server, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    with mailbox() as box:

        def elsewhere(method: str, path: str, _: bytes) -> Answered | None:
            return Answered(b"", 307, {"Location": f"{box.uri}{path}"}) if method == "PUT" else None

        with rewriting(server.uri, elsewhere) as uri:
            with pytest.raises(InvalidInput, match="redirects to"):
                promote(sealed(tmp_path / "a", pair_of_keys), tracking_uri=uri, private_key=pair_of_keys, now=NOW)
            assert box.received == []
            _stock_upload(uri, "guardrail", tmp_path / "a")
            assert box.received != []


def test_an_upload_in_parts_goes_nowhere(
    server: Server, tmp_path: Path, pair_of_keys: key_pairs.PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may tell MLflow's client to send the parts of a large file to addresses that it names."""
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "1")
    with mailbox() as box:

        def parts(_: str, path: str, __: bytes) -> Answered | None:
            if path.endswith("/server-info"):
                return Answered(json.dumps({"multipart_uploads_enabled": True, "store_type": "x"}).encode())
            if "/mpu/create" in path:
                part = {"url": box.uri, "part_number": 1, "headers": {}}
                return Answered(json.dumps({"upload_id": "x", "credentials": [part]}).encode())
            return Answered(b"{}") if "/mpu/" in path else None

        with rewriting(server.uri, parts) as uri:
            model = f"parts-{tmp_path.name}"
            promote(
                sealed(tmp_path / "a", pair_of_keys, model=model), tracking_uri=uri, private_key=pair_of_keys, now=NOW
            )
            assert box.received == []
            _stock_upload(uri, "guardrail", tmp_path / "a")
            assert box.received != []


def test_a_sqlite_store_whose_experiment_lies_elsewhere_gets_nothing(
    tmp_path: Path, pair_of_keys: key_pairs.PrivateKey
) -> None:
    uri, place = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "attacker"
    with client(uri, write=True) as opened:
        opened.create_experiment("guardrail", artifact_location=place.as_uri())
    bundle = sealed(tmp_path / "a", pair_of_keys)
    with pytest.raises(EvidenceInvalid, match="nothing was sent"):
        promote(bundle, tracking_uri=uri, private_key=pair_of_keys, now=NOW)
    assert not place.exists()
    record = promote(bundle, tracking_uri=uri, private_key=pair_of_keys, now=NOW, artifact_location=str(place))
    assert record.version == "1"


# --- the gated server


@pytest.mark.every_cell
def test_the_server_made_the_experiments_and_serves_their_artifacts(pair: Pair) -> None:
    found = [client_of(pair.gated).get_experiment_by_name(name) for name in gate_experiments.OWNED]
    for experiment in found:
        assert experiment is not None
        assert experiment.lifecycle_stage == "active"
        assert str(experiment.artifact_location).startswith("mlflow-artifacts:/")


@pytest.mark.every_cell
def test_nobody_makes_another_one_of_that_name(pair: Pair) -> None:
    from mlflow.exceptions import MlflowException

    for location in ("s3://attacker/x", "file:///x/attacker", None):
        with pytest.raises(MlflowException, match="RESOURCE_ALREADY_EXISTS"):
            client_of(pair.gated).create_experiment("guardrail", artifact_location=location)


def test_what_is_free_in_the_gates_experiment_stays_free(pair: Pair) -> None:
    """Runs and logged models of anybody, tags of other names, what is in other experiments."""
    stock = client_of(pair.gated)
    ours = stock.get_experiment_by_name("guardrail")
    assert ours is not None
    run = stock.create_run(ours.experiment_id)
    stock.set_tag(run.info.run_id, "note", "mine")
    stock.log_metric(run.info.run_id, "loss", 1.0)
    stock.set_terminated(run.info.run_id, "FAILED")
    model = stock.create_logged_model(ours.experiment_id, name="adapter")
    stock.set_logged_model_tags(model.model_id, {"note": "mine"})
    stock.finalize_logged_model(model.model_id, "FAILED")
    mine = stock.create_experiment(f"mine-{run.info.run_id}")
    other = stock.create_run(mine)
    stock.set_tag(other.info.run_id, "guardrail.verdict", "mine")
    stock.delete_run(other.info.run_id)
    stock.delete_experiment(mine)
    stock.restore_experiment(mine)
    trained = stock.get_experiment_by_name("guardrail-training")
    assert trained is not None
    live = stock.create_run(trained.experiment_id)
    stock.delete_run(live.info.run_id)


def test_a_run_of_the_same_evidence_that_somebody_made_first_diverts_nothing(pair: Pair, tmp_path: Path) -> None:
    """It is found by its tag, and is not what is to be recorded: another one is made."""
    bundle = proven(tmp_path / "a", gate_of(pair.gated), pair.people.signers, model="guarded", seed=88)
    stock = client_of(pair.gated)
    ours = stock.get_experiment_by_name("guardrail")
    assert ours is not None
    tags = {"guardrail.evidence_sha256": bundle.evidence_sha256}
    forged = stock.create_run(ours.experiment_id, tags=tags)
    stock.log_text(forged.info.run_id, "evil", "evidence/decision.dsse.json")
    stock.set_terminated(forged.info.run_id)
    model = stock.create_logged_model(ours.experiment_id, name="adapter", tags=tags)
    stock.finalize_logged_model(model.model_id, "READY")
    record = promote(
        bundle, tracking_uri=pair.gated.uri, private_key=pair.people.decider.private, now=datetime.now(UTC)
    )
    assert record.version is not None
    assert record.run_id != forged.info.run_id
    assert record.model_id != model.model_id


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """MLflow's tracking store over a real database, as a gated server builds it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    build = gate_experiments._gated(lambda uri: SqlAlchemyStore(uri, "mlflow-artifacts:/"))
    return build(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def _serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gate_experiments.ARTIFACT_ROOT, "mlflow-artifacts:/")


@pytest.mark.usefixtures("_serving")
def test_what_was_deleted_before_the_start_is_restored(store: Any) -> None:
    gate_experiments.own(store)
    found = store.get_experiment_by_name("guardrail")
    store._next().delete_experiment(found.experiment_id)
    assert store.get_experiment(found.experiment_id).lifecycle_stage == "deleted"
    gate_experiments.own(store)
    again = store.get_experiment_by_name("guardrail")
    assert (again.experiment_id, again.lifecycle_stage) == (found.experiment_id, "active")


FOREIGN = [
    "s3://attacker/x",
    "file:///x/attacker",
    "/x/attacker",
    "mlflow-artifacts://attacker:5000/x",
    "ftp://attacker/x",
    "http://attacker/x",
    "mlflow-artifacts:/sealed/x",
    "mlflow-artifacts:/SEALED",
    "mlflow-artifacts:/",
    "mlflow-artifacts:/x/../sealed",
    "MLFLOW-ARTIFACTS:/1",
    "mlflow-artifacts:/1/%2e%2e/sealed",
]


@pytest.mark.usefixtures("_serving")
@pytest.mark.parametrize("location", FOREIGN)
@pytest.mark.parametrize("deleted", [False, True])
def test_an_experiment_of_that_name_elsewhere_stops_the_server_and_renaming_it_helps(
    store: Any, location: str, deleted: bool
) -> None:
    made = store.create_experiment("guardrail", artifact_location=location)
    if deleted:
        store._next().delete_experiment(made)
    with pytest.raises(InvalidInput, match="rename it away") as caught:
        gate_experiments.own(store)
    assert f"--experiment-id {made}" in caught.value.message()
    if deleted:
        store._next().restore_experiment(made)
    store._next().rename_experiment(made, "guardrail-foreign")
    gate_experiments.own(store)
    assert str(store.get_experiment_by_name("guardrail").experiment_id) != str(made)


def test_where_the_default_is_elsewhere_the_gate_still_serves_its_own(tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = gate_experiments._gated(lambda uri: SqlAlchemyStore(uri, "s3://bucket/x"))(
        f"sqlite:///{tmp_path}/mlflow.db"
    )
    gate_experiments.own(store)
    assert store.get_experiment_by_name("guardrail").artifact_location == "mlflow-artifacts:/guardrail"


def test_a_store_that_is_not_gated_is_not_owned(tmp_path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with pytest.raises(InvalidInput, match="cannot own"):
        gate_experiments.own(SqlAlchemyStore(f"sqlite:///{tmp_path}/mlflow.db", "mlflow-artifacts:/"))


def test_a_tracking_store_with_an_unknown_method_stops_the_server() -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    gate_experiments.require_classified(SqlAlchemyStore)
    for name in ("move_experiment", "purge_runs", "archive_logged_models", "delete_runs"):
        with pytest.raises(InvalidInput, match=name):
            gate_experiments.require_classified(type("Newer", (SqlAlchemyStore,), {name: lambda _: None}))
    assert not gate_experiments.GATED & gate_experiments.STOCK


@pytest.mark.every_cell
def test_promotion_goes_on_after_everything_that_was_refused(pair: Pair, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    stock: MlflowClient = client_of(pair.gated)
    ours = stock.get_experiment_by_name("guardrail")
    assert ours is not None
    for attempt in (stock.delete_experiment, lambda number: stock.rename_experiment(number, "x")):
        with pytest.raises(MlflowException, match=GATE):
            attempt(ours.experiment_id)
    assert promoted(pair.gated, pair.people, tmp_path / "a", "guarded", seed=89)
