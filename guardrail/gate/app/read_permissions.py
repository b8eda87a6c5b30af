"""Who may read what is sealed on a server with users: whoever may read a model that it was sealed for.

MLflow's basic-auth judges a path of its artifact proxy by the experiment whose number begins it, and what begins with
none by the default permission: under ``NO_PERMISSIONS`` only administrators could fetch a sealed adapter. Both of its
servers (uvicorn's and gunicorn's) ask the same two functions, which are replaced here for reads below ``sealed/``.
Which models an adapter was sealed for, the ledger says: a version that somebody made elsewhere of the same files opens
nothing. Not covered: writes (``gate/sealed/boundary_disk.py``), and reads of anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guardrail import logs
from guardrail.errors import GuardrailError, InvalidInput
from guardrail.gate.ledger_drafts import KEPT
from guardrail.gate.registrar import Registrar
from guardrail.gate.settings import SEALED
from guardrail.registry.read.reader import sealed_uri

WHAT, WHETHER = "_artifact_proxy_child", "_authorize_artifact_proxy_resolved"
"""MLflow's functions: what a path of the proxy is judged by, and whether a user may."""
_logger = logs.logger("guardrail.server")


@dataclass(frozen=True)
class Sealed:
    """A path in the sealed adapter ``digest``; one that nothing has where the path is no adapter's."""

    digest: str


def judge_by_models(auth: Any, registrar: Registrar) -> None:
    """Have MLflow's module of users judge reads below ``sealed/`` by the registered models.

    Raises:
        InvalidInput: this MLflow judges artifacts in another way.
    """
    what, whether = getattr(auth, WHAT, None), getattr(auth, WHETHER, None)
    if not callable(what) or not callable(whether):
        raise InvalidInput(
            f"this MLflow's basic-auth has no {WHAT} and {WHETHER}, so who may read sealed adapters is not known",
            expected="an MLflow version that this guardrail was made for",
            next_step="install the MLflow version that guardrail's constraints name, or a newer guardrail",
        )

    def what_it_is(path: str | None, action: str) -> Any:
        found = sealed(auth._canonical_artifact_proxy_path(path)) if path and action == "read" else None
        return found or what(path, action)

    def whether_it_may(found: Any, username: str, action: str, otherwise: Callable[[], Any]) -> bool:
        if isinstance(found, Sealed):
            return _any_readable(username, registrar, found.digest)
        return bool(whether(found, username, action, otherwise))

    setattr(auth, WHAT, what_it_is)
    setattr(auth, WHETHER, whether_it_may)


def sealed(path: str | None) -> Sealed | None:
    """What a path of the proxy, decoded by MLflow, is in the sealed tree; None outside, and for the tree's own list."""
    parts = [part for part in (path or "").split("/") if part not in ("", ".")]
    if len(parts) < 2 or parts[0].casefold() != SEALED:
        return None
    return Sealed(parts[1] if parts[0] == SEALED else "")


def sealed_for(registrar: Registrar, digest: str) -> set[str]:
    """The models that have a version of this sealed adapter, or under which it waits for approval."""
    state, location = registrar.journal.state(), sealed_uri(f"{SEALED}/{digest}")
    waiting = {one.evidence for one in state.waiting()}
    admitted = [one for one in list(state.admitted.values()) if _kept_at(one.note) == digest]
    return {
        one.model for one in admitted if one.evidence in waiting or registrar.beneath.versions_at(one.model, location)
    }


def _kept_at(note: str) -> str | None:
    match = KEPT.fullmatch(note)
    return match[1] if match else None


def _any_readable(username: str, registrar: Registrar, digest: str) -> bool:
    try:
        return any(may_read(username, name) for name in sorted(sealed_for(registrar, digest)))
    except GuardrailError as error:
        _logger.error("nobody but administrators reads sealed/%s: %s", digest[:80], error.message())
        return False


def may_read(username: str, name: str) -> bool:
    """Whether MLflow lets a user read a registered model and, as where it serves a version's files, its versions."""
    from mlflow.server.auth import authorize
    from mlflow.server.auth.requirements import ACTION_NOT_DENIED, Requirement

    model = ("registered_model", name)
    versions = Requirement("registered_model_version", "*", ACTION_NOT_DENIED, fallback_if_no_grant=(model,))
    return bool(authorize(username, model, [Requirement(*model, "read"), versions]))
