"""The applications that `mlflow server --app-name guardrail` runs: stock MLflow with the gate installed and asserted.

Each worker calls the factory before it answers anything. A worker without an active gate ends the server.
Not covered: servers started without these applications; they have no sealed tree, so their gated store admits nothing.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guardrail import logs
from guardrail.errors import GuardrailError, InternalError, InvalidInput
from guardrail.gate import settings as config
from guardrail.gate.app.body_limits import bounding
from guardrail.gate.app.own_files import database, own, require_outside
from guardrail.gate.refusal_log import log_closed, make_visible
from guardrail.gate.refusal_pacing import Asgi, Pacing, Receive, Scope, Send, rate
from guardrail.gate.ticket_office import most_open

REPORT = "GUARDRAIL_REPORT"
"""Set by the launcher: the file in which a worker says why the gate is not active."""
BOOT_FAILED = 3
"""What a worker ends with that must not be started again: uvicorn's STARTUP_FAILURE, gunicorn's WORKER_BOOT_ERROR."""
CLOSED = "/mlflow/assistant"
"""The assistant runs commands on the server's machine."""
MUTATIONS = frozenset({"mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"})
"""GraphQL's mutations, which only search and echo; another one stops the server until somebody has looked at it."""
_logger = logs.logger("guardrail.server")


def plain() -> Any:
    """MLflow's own application, gated: ASGI under uvicorn, WSGI under gunicorn."""
    _install_or_end()
    if os.environ.get("_MLFLOW_SGI_NAME") == "uvicorn":
        from mlflow.server.fastapi_app import app

        return front(app)
    from mlflow.server import app as flask_app

    return flask_app


def basic_auth() -> Any:
    """MLflow's basic-auth application, gated."""
    _install_or_end(_users)
    from mlflow.server import auth

    from guardrail.gate.app.routes import USERS
    from guardrail.registry.gate.protocol import PREFIX

    made = auth.create_app()
    allowed = {(f"/{PREFIX}/{route}", method): _whoever_is_known for route, method in USERS}
    auth.BEFORE_REQUEST_VALIDATORS.update(allowed)
    return front(made) if os.environ.get("_MLFLOW_SGI_NAME") == "uvicorn" else made


def _users() -> None:
    """Their database is out of clients' reach, and sealed adapters open with the models that they may read."""
    from mlflow.server import auth, handlers

    from guardrail.gate.app.read_permissions import judge_by_models

    destination = config.destination(os.environ.get(config.DESTINATION, ""))
    require_outside(destination, database(auth.auth_config.database_uri))
    store: Any = handlers._get_model_registry_store()
    judge_by_models(auth, store.registrar)


def _whoever_is_known() -> bool:
    """What the gate's routes take is signed, and what they give is for whoever may log in."""
    return True


def front(app: Asgi) -> Asgi:
    """The application as uvicorn serves it: what comes in is bounded, and what is refused is paced."""
    return Pacing(closing(bounding(app)), rate(os.environ))


def closing(app: Asgi) -> Asgi:
    """The application without the routes that the gate cannot cover."""

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and CLOSED in str(scope.get("path", "")):
            log_closed(scope)
            body = b'{"error_code": "PERMISSION_DENIED", "message": "guardrail refuses: the assistant is off"}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await app(scope, receive, send)

    return closed


def install() -> None:
    """Guard the artifacts, then assert that the registry store of this process is the gate.

    Raises:
        GuardrailError: the gate is not active.
    """
    from mlflow.server import app as flask_app
    from mlflow.server import handlers
    from mlflow.store.artifact import artifact_repository_registry

    from guardrail.gate.app.routes import serve
    from guardrail.gate.app.start_up import begin
    from guardrail.gate.sealed.boundary_disk import install as guard
    from guardrail.gate.sealed.sealed_storage import sealing
    from guardrail.gate.store import gate_experiments
    from guardrail.gate.store.gated_store import GatedStore

    make_visible()
    config.require_off()
    rate(os.environ)
    most_open(os.environ)
    place = config.destination(os.environ.get(config.DESTINATION, ""))
    require_outside(place, own())
    places = sealing(place)
    places.tree.sweep()
    places.tree.queues.prepare()
    if handlers._artifact_repo is not None:
        raise InternalError("an artifact repository was made before the gate could guard it")
    guard(artifact_repository_registry._artifact_repository_registry, places.boundary, places.buckets)
    gate_experiments.gate_stores()
    gate_experiments.own(handlers._get_tracking_store())
    store = handlers._get_model_registry_store()
    if not isinstance(store, GatedStore):
        raise InvalidInput(
            f"the registry store of this server is {type(store).__name__}: the gate is not active",
            expected="--registry-store-uri gated+sqlite:…, gated+postgresql:… or gated+mysql:…",
        )
    store.registrar.tree = places.tree
    _require_known_mutations()
    serve(flask_app, store.registrar)
    begin(store.registrar, str(place))


def _settle() -> None:
    """What is loaded by now stays: the garbage collector need not look through it (0.2 s each time) among requests."""
    gc.collect()
    gc.freeze()


def _require_known_mutations() -> None:
    from mlflow.server.graphql.graphql_schema_extensions import schema

    mutation = schema.graphql_schema.mutation_type
    unknown = sorted(set(mutation.fields) - MUTATIONS) if mutation else []
    if unknown:
        raise InvalidInput(f"this MLflow's GraphQL can change what the gate does not know: {', '.join(unknown)}")


def _install_or_end(*more: Callable[[], None]) -> None:
    """Where the gate is not active this worker ends, by a code for which the server ends with it.

    uvicorn before 0.50 starts such a worker again and again; under the launcher its parent is known, and ended, too.
    """
    try:
        for step in (install, *more, _settle):
            step()
    except GuardrailError as error:
        _logger.critical("the gate is not active, the server ends: %s", error.message())
        if report := os.environ.get(REPORT):
            Path(report).write_text(error.message(), encoding="utf-8")
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(BOOT_FAILED)  # at once: one that takes long to end answers no ping, and uvicorn starts another
