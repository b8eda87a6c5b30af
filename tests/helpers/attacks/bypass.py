"""What an attacker has: an address, a client, a guarded model to spoil; and what a spoiled one looks like."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from gated_servers import PASSWORD, USER, Running

from guardrail.names import alike

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from guardrail.evidence.bundle import Bundle

EVIL = b"evil"
WEIGHTS = "adapter_model.safetensors"


class Refused(Exception):
    """The server answered with an error."""


@dataclass(frozen=True)
class Target:
    """A guarded model (versions 1 and 2, ``production`` at 2) and what an attacker may use against it.

    Args:
        name: the model.
        unborn: a guarded name that is not registered.
        blank: another one, which an attempt may register, but not fill.
        files: where the files of version 2 lie, relative to the artifact root.
        innocent: an unguarded model of the attacker's own, with version 1.
        model_id: a logged model of the attacker's own.
        prove: makes a bundle of an adapter, which the second argument changed, that everybody signed who must.
    """

    running: Running
    client: MlflowClient
    name: str
    unborn: str
    blank: str
    files: str
    innocent: str
    model_id: str
    run_id: str
    scratch: Path
    prove: Callable[[Path, Callable[[Path], object]], Bundle]
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def place(self) -> str:
        """The location of those files, as somebody who knows the destination would name it."""
        return f"{self.running.root}/{self.files}"

    @property
    def disk(self) -> Path:
        """The files of version 2 on the server's disk."""
        return self.running.destination / self.files

    def api(self, method: str, route: str, **values: Any) -> dict[str, Any]:
        """A call of ``/api/2.0/mlflow``."""
        return self.call(method, f"api/2.0/mlflow/{route}", values)

    def ajax(self, method: str, route: str, **values: Any) -> dict[str, Any]:
        """The same through the UI's address."""
        return self.call(method, f"ajax-api/2.0/mlflow/{route}", values)

    def call(self, method: str, path: str, values: object, **headers: str) -> dict[str, Any]:
        """Any address with a JSON body."""
        return self._answer(self.session.request(method, f"{self.running.uri}/{path}", json=values, headers=headers))

    def send(self, method: str, address: str, body: bytes = b"", **params: str) -> None:
        """Any address with plain bytes."""
        self._answer(self.session.request(method, f"{self.running.uri}/{address}", data=body, params=params))

    def raw(self, method: str, path: str, body: bytes = b"") -> None:
        """The path exactly as it is written, which no HTTP client would send."""
        address = urlsplit(self.running.uri)
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        prepared = self.session.prepare_request(requests.Request(method, self.running.uri, data=body or b"{}"))
        headers = {**{str(k): str(v) for k, v in prepared.headers.items()}, "Content-Type": "application/json"}
        connection.request(method, "/" + path, body or b"{}", headers)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status >= 400:
            raise Refused(f"{answer.status} {said[:500]!r}")

    def put(self, path: str, prefix: str = "api/2.0") -> None:
        """Write through the artifact proxy."""
        self.send("PUT", f"{prefix}/mlflow-artifacts/artifacts/{path}", EVIL)

    def delete(self, path: str, prefix: str = "api/2.0") -> None:
        """Delete through the artifact proxy."""
        self.call("DELETE", f"{prefix}/mlflow-artifacts/artifacts/{path}", {})

    def run_at(self, location: str) -> str:
        """A run of a new experiment whose artifacts lie at ``location``."""
        experiment = self.api("POST", "experiments/create", name=os.urandom(8).hex(), artifact_location=location)
        run = self.api("POST", "runs/create", experiment_id=experiment["experiment_id"], start_time=1)
        return str(run["run"]["info"]["run_id"])

    def upload(self, run_id: str, path: str) -> None:
        """The UI's upload into a run."""
        self.send("POST", "ajax-api/2.0/mlflow/upload-artifact", EVIL, run_uuid=run_id, path=path)

    def _answer(self, answer: requests.Response) -> dict[str, Any]:
        if not answer.ok:
            raise Refused(f"{answer.status_code} {answer.text[:500]}")
        try:
            found = answer.json()
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def session() -> requests.Session:
    """Authenticated as the administrator where the server asks: the gate refuses even them."""
    made = requests.Session()
    made.auth = (USER, PASSWORD)
    return made


def view(target: Target) -> str:
    """Everything about the guarded names and the registered bytes, as JSON."""
    wanted = (target.name, target.unborn, target.blank)
    models = [
        m
        for m in target.client.search_registered_models(max_results=1000)
        if any(alike(m.name, name) for name in wanted)
    ]
    found = [
        {
            "name": model.name,
            "description": model.description,
            "tags": model.tags,
            "aliases": model.aliases,
            "versions": [
                [v.version, v.source, v.current_stage, v.status, v.description, v.tags, v.run_link]
                for v in target.client.search_model_versions(f"name = '{model.name}'")
            ],
        }
        for model in models
        if model.aliases or model.description or model.tags or model.latest_versions  # an empty one says nothing
    ]
    answer = target.session.get(
        f"{target.running.uri}/api/2.0/mlflow/registered-models/get", params={"name": target.unborn}
    )
    answered = answer.json().get("registered_model", {})
    prompt = [answered.get("name"), answered.get("tags")]
    from bypass_hostile import state  # it needs Target

    seen = [found, prompt, target.running.files(target.files), state(target)]
    return json.dumps(seen, indent=1, sort_keys=True, default=str)
