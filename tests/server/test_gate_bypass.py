"""Every way around the gate that we know: refused by the gated server, bytes and aliases unchanged; real on stock."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from bypass import Refused, Target, session, view
from bypass_attempt import Attempt
from bypass_attempts import ATTEMPTS
from gate_chains import proven
from gate_fixtures import Pair, client_of, gate_of, promoted
from gated_servers import Running, pointing
from matrix import execute
from registry_bundles import sealed, unsealed

from guardrail.evidence.bundle import Bundle, seal, write
from guardrail.evidence.digest import sha256
from guardrail.registry.mlflow.mlflow_client import GATE

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
ATTACKED = "guarded-attacked"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def guarded(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """On the gated server one model of their own serves all attempts, because none may change it."""
    folder = tmp_path_factory.mktemp("guarded")
    assert [promoted(pair.gated, pair.people, folder / str(seed), ATTACKED, seed) for seed in (0, 1)] == ["1", "2"]
    client = client_of(pair.gated)
    source = str(client.get_model_version(ATTACKED, "2").source)
    files = source.removeprefix("mlflow-artifacts:/")

    def prove(directory: Path, change: Change) -> Bundle:
        return proven(directory, gate_of(pair.gated), pair.people.signers, model=ATTACKED, prepare=change)

    return _target(pair.gated, client, folder, (ATTACKED, "unborn", "blank"), files, prove)


@pytest.fixture(scope="module")
def seen(guarded: Target) -> list[str]:
    """How that model looked, lastly after the latest attempt: looking takes longer than most attempts."""
    return [view(guarded)]


@pytest.fixture
def spoilt(pair: Pair, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Target]:
    """On stock MLflow each attempt gets a model of its own, because each spoils it."""
    attempt: Attempt = request.node.callspec.params["attempt"]
    stock: Running = request.getfixturevalue("workspaces") if attempt.workspaces else pair.stock
    client, name = client_of(stock), f"guarded-{sha256(attempt.name.encode())[:12]}"
    client.create_registered_model(name)
    for seed in (0, 1):
        bundle = sealed(tmp_path / str(seed), pair.people.decider.private, model=name, seed=seed)
        (tmp_path / f"laid-{seed}").mkdir()
        write(bundle, tmp_path / f"laid-{seed}")
        model_id = _logged(client, tmp_path / f"laid-{seed}")
        tags = {"guardrail.verdict": "PASSED", "guardrail.model_id": model_id}
        client.create_model_version(name, f"models:/{model_id}", model_id=model_id, tags=tags)
    client.set_registered_model_alias(name, "production", "2")
    where = client.get_model_version_download_uri(name, "2").removeprefix("mlflow-artifacts:/")

    def prove(directory: Path, change: Change) -> Bundle:
        return seal(unsealed(directory, model=name, prepare=change), pair.people.decider.private)

    yield _target(stock, client, tmp_path, (name, f"unborn-{name}", f"blank-{name}"), where, prove)
    if attempt.folding:
        _remove_what_breaks(stock)


@pytest.mark.every_cell
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda a: a.name)
def test_the_gated_server_refuses(guarded: Target, seen: list[str], attempt: Attempt) -> None:
    from mlflow.exceptions import MlflowException

    with pointing(guarded.running), pytest.raises((Refused, MlflowException, requests.HTTPError)) as caught:
        attempt.attack(guarded)
    assert attempt.feature or attempt.workspaces or GATE in str(caught.value)
    seen.append(view(guarded))
    assert seen[-1] == seen[-2]


@pytest.mark.every_cell
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda a: a.name)
def test_stock_mlflow_lets_it_happen(pair: Pair, spoilt: Target, attempt: Attempt) -> None:
    before = view(spoilt)
    with pointing(spoilt.running):
        attempt.attack(spoilt)
        after = _seen(spoilt)
    assert attempt.feature or after != before


def _remove_what_breaks(stock: Running) -> None:
    """Versions under another spelling of their model's name: no search of stock MLflow answers beside one."""
    other = "v.name = r.name WHERE BINARY v.name <> BINARY r.name"
    execute(stock.database, f"DELETE v FROM model_versions v JOIN registered_models r ON {other}")


def _seen(target: Target) -> str:
    """How it looks, if the registry still answers: rows under another spelling of their model's name break it."""
    from mlflow.exceptions import MlflowException

    try:
        return view(target)
    except MlflowException as error:
        return f"broken: {error.error_code}"


@pytest.mark.every_cell
@pytest.mark.parametrize("name", ["guardéd-attacked", "guarded-attacked ", "GUARDÉD-ATTACKED", "unbörn", "unborn "])
def test_what_the_database_takes_for_a_guarded_name_is_guarded(guarded: Target, name: str) -> None:
    if guarded.running.cell.database != "mysql":
        pytest.skip("this database tells these names apart")
    before = view(guarded)
    moves: list[Callable[[], object]] = [
        lambda: guarded.api("POST", "registered-models/create", name=name),
        lambda: guarded.api("POST", "registered-models/rename", name=guarded.innocent, new_name=name),
        lambda: guarded.api("DELETE", "registered-models/delete", name=name),
        lambda: guarded.api("POST", "registered-models/alias", name=name, alias="production", version="1"),
        lambda: guarded.api("POST", "model-versions/set-tag", name=name, version="1", key="a", value="b"),
    ]
    for move in moves:
        with pytest.raises(Refused, match=GATE):
            move()
    assert view(guarded) == before


def test_at_least_140_attempts_have_names_of_their_own() -> None:
    names = [attempt.name for attempt in ATTEMPTS]
    assert len(set(names)) == len(names) >= 140


def _target(
    running: Running,
    client: MlflowClient,
    folder: Path,
    names: tuple[str, str, str],
    files: str,
    prove: Callable[[Path, Change], Bundle],
) -> Target:
    name, unborn, blank = names
    laid = folder / "laid"
    laid.mkdir()
    (laid / "adapter_model.safetensors").write_bytes(b"no evidence")
    model_id = _logged(client, laid)
    innocent = re.sub(r"^guarded", "innocent", name)
    client.create_registered_model(innocent)
    client.create_model_version(innocent, f"models:/{model_id}", model_id=model_id)
    client.set_registered_model_alias(innocent, "production", "1")
    run = client.create_run("0")
    client.log_artifacts(run.info.run_id, str(laid), "stuff")
    scratch = folder / f"s{sha256(name.encode())[:12]}"
    scratch.mkdir()
    return Target(
        running, client, name, unborn, blank, files, innocent, model_id, run.info.run_id, scratch, prove, session()
    )


def _logged(client: MlflowClient, directory: Path) -> str:
    model = client.create_logged_model("0", name="adapter")
    client.log_model_artifacts(model.model_id, str(directory))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)
