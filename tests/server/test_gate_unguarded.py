"""Models that nobody guards: MLflow's client gets the same answers from the gated server as from a stock one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gate_fixtures import Pair, client_of
from gated_servers import Running, pointing

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow
Call = Callable[["Session"], object]
VOLATILE = re.compile(r"m-[0-9a-f]{32}|[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b1[0-9]{12}\b")


@dataclass
class Session:
    """A client and what it made on the way."""

    running: Running
    client: MlflowClient
    folder: Path
    made: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, value: str) -> str:
        """Remember an id that the server chose."""
        self.made[name] = value
        return "kept"


def logged(s: Session) -> str:
    model = s.client.create_logged_model("0", name="free")
    (s.folder / "model.bin").write_bytes(b"anything, pickles too")
    s.client.log_model_artifact(model.model_id, str(s.folder / "model.bin"))
    s.client.finalize_logged_model(model.model_id, "READY")
    return s.keep("model", str(model.model_id))


def run_files(s: Session) -> str:
    run = s.client.create_run("0")
    s.client.log_text(run.info.run_id, "anything", "stuff/a.txt")
    return s.keep("run", str(run.info.run_id))


def webhook(s: Session) -> object:
    from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent

    event = WebhookEvent(WebhookEntity.MODEL_VERSION, WebhookAction.CREATED)
    made = s.client.create_webhook("hook", "https://93.184.215.14/x", [event])
    s.keep("webhook", str(made.webhook_id))
    return made.name, made.status, [str(event) for event in made.events]


def downloaded(s: Session) -> object:
    import mlflow

    with pointing(s.running):
        folder = mlflow.artifacts.download_artifacts("models:/free@champion")
    return sorted(path.name for path in Path(folder).rglob("*") if path.name != "registered_model_meta")


CALLS: list[tuple[str, Call]] = [
    ("create", lambda s: s.client.create_registered_model("free", {"a": "b"}, "about")),
    ("create again", lambda s: s.client.create_registered_model("free")),
    ("create with a bad name", lambda s: s.client.create_registered_model("a/b")),
    ("create another case", lambda s: s.client.create_registered_model("other")),
    ("get", lambda s: s.client.get_registered_model("free")),
    ("get missing", lambda s: s.client.get_registered_model("absent")),
    ("update", lambda s: s.client.update_registered_model("free", "changed")),
    ("update missing", lambda s: s.client.update_registered_model("absent", "changed")),
    ("tag", lambda s: s.client.set_registered_model_tag("free", "team", "ours")),
    ("untag", lambda s: s.client.delete_registered_model_tag("free", "a")),
    ("logged model", logged),
    ("run", run_files),
    (
        "version",
        lambda s: s.client.create_model_version(
            "free", f"models:/{s.made['model']}", model_id=s.made["model"], tags={"x": "y"}, description="first"
        ),
    ),
    ("version of a run", lambda s: s.client.create_model_version("free", f"runs:/{s.made['run']}/a", s.made["run"])),
    ("version of a bucket", lambda s: s.client.create_model_version("free", "s3://bucket/key")),
    ("version of a local path", lambda s: s.client.create_model_version("free", "/etc")),
    ("version of nothing", lambda s: s.client.create_model_version("absent", "s3://bucket/key")),
    ("get version", lambda s: s.client.get_model_version("free", "1")),
    ("get missing version", lambda s: s.client.get_model_version("free", "99")),
    ("download uri", lambda s: s.client.get_model_version_download_uri("free", "1")),
    ("update version", lambda s: s.client.update_model_version("free", "1", "changed")),
    ("tag version", lambda s: s.client.set_model_version_tag("free", "1", "k", "v")),
    ("tag missing version", lambda s: s.client.set_model_version_tag("free", "99", "k", "v")),
    ("untag version", lambda s: s.client.delete_model_version_tag("free", "1", "x")),
    ("alias", lambda s: s.client.set_registered_model_alias("free", "champion", "1")),
    ("alias production", lambda s: s.client.set_registered_model_alias("free", "production", "2")),
    ("alias back", lambda s: s.client.set_registered_model_alias("free", "production", "1")),
    ("alias of a missing version", lambda s: s.client.set_registered_model_alias("free", "champion", "99")),
    ("reserved alias", lambda s: s.client.set_registered_model_alias("free", "latest", "1")),
    ("by alias", lambda s: s.client.get_model_version_by_alias("free", "champion")),
    ("by missing alias", lambda s: s.client.get_model_version_by_alias("free", "nobody")),
    ("download by alias", downloaded),
    ("stage", lambda s: s.client.transition_model_version_stage("free", "1", "Staging")),
    ("stage, archiving", lambda s: s.client.transition_model_version_stage("free", "2", "Staging", True)),
    ("unknown stage", lambda s: s.client.transition_model_version_stage("free", "1", "Nowhere")),
    ("latest", lambda s: s.client.get_latest_versions("free")),
    ("latest of a stage", lambda s: s.client.get_latest_versions("free", ["Staging"])),
    ("search", lambda s: s.client.search_registered_models("name LIKE 'fre_'")),
    ("search by tag", lambda s: s.client.search_registered_models("tags.team = 'ours'")),
    ("search badly", lambda s: s.client.search_registered_models("nonsense = 1")),
    ("search versions", lambda s: s.client.search_model_versions("name = 'free'")),
    ("search in order", lambda s: s.client.search_model_versions("name = 'free'", order_by=["version_number ASC"])),
    ("copy", lambda s: s.client.copy_model_version("models:/free/1", "other")),
    ("delete alias", lambda s: s.client.delete_registered_model_alias("free", "champion")),
    ("delete version", lambda s: s.client.delete_model_version("free", "3")),
    ("delete version again", lambda s: s.client.delete_model_version("free", "3")),
    ("rename", lambda s: s.client.rename_registered_model("free", "freed")),
    ("rename missing", lambda s: s.client.rename_registered_model("free", "x")),
    ("rename onto another", lambda s: s.client.rename_registered_model("freed", "other")),
    ("prompt", lambda s: s.client.register_prompt("hello", "Hello {{name}}", tags={"a": "b"}).template),
    ("prompt again", lambda s: s.client.register_prompt("hello", "Hi {{name}}").version),
    ("prompt's alias", lambda s: s.client.set_prompt_alias("hello", "live", 2)),
    ("load prompt", lambda s: s.client.load_prompt("prompts:/hello@live").template),
    ("prompt's tag", lambda s: s.client.set_prompt_tag("hello", "team", "ours")),
    ("prompt version's tag", lambda s: s.client.set_prompt_version_tag("hello", "1", "k", "v")),
    ("prompt's alias gone", lambda s: s.client.delete_prompt_alias("hello", "live")),
    ("search prompts", lambda s: [prompt.name for prompt in s.client.search_prompts("name = 'hello'")]),
    ("webhook", webhook),
    ("webhooks", lambda s: [hook.name for hook in s.client.list_webhooks()]),
    ("webhook gone", lambda s: s.client.delete_webhook(s.made.get("webhook", "none"))),
    ("delete", lambda s: s.client.delete_registered_model("freed")),
    ("delete missing", lambda s: s.client.delete_registered_model("freed")),
]


@pytest.fixture(scope="module")
def answers(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, object]]]:
    """Call by call, from both servers; MLflow's client would repeat for minutes what fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        return {
            name: list(_all(Session(running, client_of(running), tmp_path_factory.mktemp(name))))
            for name, running in (("gated", pair.gated), ("stock", pair.stock))
        }


@pytest.mark.parametrize("index", range(len(CALLS)), ids=lambda index: CALLS[index][0])
def test_the_gated_server_answers_as_a_stock_one(answers: dict[str, list[tuple[str, object]]], index: int) -> None:
    assert answers["gated"][index] == answers["stock"][index]


def test_most_calls_succeed(answers: dict[str, list[tuple[str, object]]]) -> None:
    assert sum(kind == "ok" for kind, _ in answers["stock"]) > len(CALLS) * 2 // 3


def _all(session: Session) -> Iterator[tuple[str, object]]:
    from mlflow.exceptions import MlflowException

    for _, call in CALLS:
        try:
            yield "ok", _plain(call(session), session)
        except MlflowException as error:
            yield str(error.error_code), _scrubbed(str(error), session)


def _plain(value: Any, session: Session) -> object:
    """What can be compared: entities as dictionaries, without what differs from server to server."""
    if isinstance(value, str | int | float | bool | type(None)):
        return _scrubbed(str(value), session)
    if isinstance(value, dict):
        return {key: "T" if "timestamp" in key else _plain(inner, session) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, session) for inner in value]
    return _plain(dict(value), session) if hasattr(value, "__iter__") else _scrubbed(str(value), session)


def _scrubbed(text: str, session: Session) -> str:
    port = session.running.uri.rpartition(":")[2]
    text = (
        text.replace(session.running.uri, "URI")
        .replace(f"port={port}", "PORT")
        .replace(str(session.running.destination), "DESTINATION")
    )
    return VOLATILE.sub("ID", text)
