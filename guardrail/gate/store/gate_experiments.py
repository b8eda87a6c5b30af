"""The gate owns its experiments: it makes them, restores them, and nobody deletes, renames or marks them.

In MLflow an experiment belongs to whoever made it first: they say where its artifacts lie, and whoever may write can
delete it, after which no promotion ends. Decisions, denials and candidates lie in the experiment ``guardrail``; numbers
of trainings in ``guardrail-training``. So every tracking store that MLflow builds in a gated server, whatever asks it,
refuses changes of these two; in the first also what would take away a decision or a candidate. Making runs and logged
models there is for everybody, as before: nothing in them is believed.
Not covered: artifacts in them that are no sealed adapter's, and permissions of MLflow's users.
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from guardrail.errors import EvidenceInvalid, InternalError, InvalidInput
from guardrail.gate.mlflow_errors import refusing
from guardrail.gate.settings import SEALED
from guardrail.registry.mlflow.destinations import parse
from guardrail.registry.mlflow.tags import PREFIX
from guardrail.registry.record import candidates, live_run

DECISIONS, TRAININGS = candidates.EXPERIMENT, live_run.EXPERIMENT
OWNED = (DECISIONS, TRAININGS)
ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
SERVED = "mlflow-artifacts"
ABOUT = re.compile(r"experiment|logged_model|(^|_)runs?($|_)|^(set|delete)_tag$|^log_batch$")
"""Methods of MLflow's tracking store by which these could be changed."""
GATED = frozenset(
    {
        "delete_experiment",
        "delete_experiment_tag",
        "delete_logged_model",
        "delete_logged_model_tag",
        "delete_run",
        "delete_tag",
        "finalize_logged_model",
        "log_batch",
        "rename_experiment",
        "restore_experiment",
        "set_experiment_tag",
        "set_logged_model_tags",
        "set_tag",
    }
)
STOCK = frozenset(
    {
        "add_dataset_to_experiments",
        "create_experiment",
        "create_logged_model",
        "create_run",
        "filter_active_experiment_ids",
        "get_dataset_experiment_ids",
        "get_experiment",
        "get_experiment_by_name",
        "get_logged_model",
        "get_run",
        "link_prompts_to_trace",
        "link_traces_to_run",
        "list_scorers_across_experiments",
        "log_logged_model_params",
        "record_logged_model",
        "remove_dataset_from_experiments",
        "restore_run",
        "search_experiments",
        "search_logged_models",
        "search_runs",
        "set_tag_async",
        "unlink_traces_from_run",
        "update_run_info",
    }
)
"""They read, add, or change what decides nothing: a run's name, its status, a parameter."""


class GatedTracking:
    """Goes before MLflow's tracking store; each method refuses, or does what that store does."""

    def delete_experiment(self, experiment_id: Any) -> Any:
        """Refused for the gate's."""
        self._unless_owned("the existence", experiment_id)
        return self._next().delete_experiment(experiment_id)

    def restore_experiment(self, experiment_id: Any) -> Any:
        """Refused for the gate's: it restores them itself."""
        self._unless_owned("the existence", experiment_id)
        return self._next().restore_experiment(experiment_id)

    def rename_experiment(self, experiment_id: Any, new_name: Any) -> Any:
        """Refused for the gate's."""
        self._unless_owned("the name", experiment_id)
        return self._next().rename_experiment(experiment_id, new_name)

    def set_experiment_tag(self, experiment_id: Any, tag: Any) -> Any:
        """Refused for the gate's."""
        self._unless_owned("a tag", experiment_id)
        return self._next().set_experiment_tag(experiment_id, tag)

    def delete_experiment_tag(self, experiment_id: Any, key: Any) -> Any:
        """Refused for the gate's."""
        self._unless_owned("a tag", experiment_id)
        return self._next().delete_experiment_tag(experiment_id, key)

    def delete_run(self, run_id: Any) -> Any:
        """Refused for decisions."""
        self._unless_decision("the existence of a run", self._experiment_of_run(run_id))
        return self._next().delete_run(run_id)

    def set_tag(self, run_id: Any, tag: Any) -> Any:
        """Our tags of decisions stay as they were made."""
        self._unless_ours([tag.key], lambda: self._experiment_of_run(run_id))
        return self._next().set_tag(run_id, tag)

    def delete_tag(self, run_id: Any, key: Any) -> Any:
        """Our tags of decisions stay as they were made."""
        self._unless_ours([key], lambda: self._experiment_of_run(run_id))
        return self._next().delete_tag(run_id, key)

    def log_batch(self, run_id: Any, metrics: Any, params: Any, tags: Any) -> Any:
        """Our tags of decisions stay as they were made."""
        self._unless_ours([tag.key for tag in tags or []], lambda: self._experiment_of_run(run_id))
        return self._next().log_batch(run_id, metrics, params, tags)

    def delete_logged_model(self, model_id: Any) -> Any:
        """Refused for candidates and proposals."""
        self._unless_decision("the existence of a logged model", self._experiment_of_model(model_id))
        return self._next().delete_logged_model(model_id)

    def finalize_logged_model(self, model_id: Any, status: Any) -> Any:
        """Once READY, a candidate or proposal stays so."""
        model = self._next().get_logged_model(model_id)
        if model.status != status and str(model.status) == "READY":
            self._unless_decision("the status of a complete logged model", model.experiment_id)
        return self._next().finalize_logged_model(model_id, status)

    def set_logged_model_tags(self, model_id: Any, tags: Any) -> Any:
        """Our tags of candidates and proposals stay as they were made."""
        self._unless_ours([tag.key for tag in tags or []], lambda: self._experiment_of_model(model_id))
        return self._next().set_logged_model_tags(model_id, tags)

    def delete_logged_model_tag(self, model_id: Any, key: Any) -> Any:
        """Our tags of candidates and proposals stay as they were made."""
        self._unless_ours([key], lambda: self._experiment_of_model(model_id))
        return self._next().delete_logged_model_tag(model_id, key)

    def _next(self) -> Any:
        """MLflow's store."""
        return super()

    def _experiment_of_run(self, run_id: Any) -> Any:
        return self._next().get_run(run_id).info.experiment_id

    def _experiment_of_model(self, model_id: Any) -> Any:
        return self._next().get_logged_model(model_id).experiment_id

    def _unless_owned(self, what: str, experiment_id: Any, owned: Iterable[str] = OWNED) -> None:
        name = str(self._next().get_experiment(experiment_id).name)  # as the database reads "01" and the like
        with refusing():
            if name in owned:
                raise _owned(what, name)

    def _unless_decision(self, what: str, experiment_id: Any) -> None:
        self._unless_owned(what, experiment_id, (DECISIONS,))

    def _unless_ours(self, keys: Iterable[str], experiment_id: Callable[[], Any]) -> None:
        """Tags of other names are free."""
        if any(str(key).casefold().startswith(PREFIX) for key in keys):
            self._unless_decision(f"a tag {PREFIX}* of a run or logged model", experiment_id())


@dataclass(frozen=True)
class FoundExperiment:
    """An experiment as the database has it."""

    experiment_id: str
    location: str
    active: bool


def gate_stores() -> None:
    """Have every tracking store over a database that this process builds be gated.

    Raises:
        InternalError: one was built before.
        InvalidInput: this MLflow's has methods that nobody classified.
    """
    from mlflow.server import handlers
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.tracking._tracking_service import utils

    if handlers._tracking_store is not None:
        raise InternalError("a tracking store was made before the gate could guard its experiments")
    for registry in (handlers._tracking_store_registry, utils._tracking_store_registry):
        for scheme in DATABASE_ENGINES:
            registry.register(scheme, _gated(registry._registry[scheme]))


def own(store: Any) -> None:
    """Make the gate's experiments, or restore them.

    Args:
        store: a gated tracking store.

    Raises:
        InvalidInput: the store is not gated, or somebody else's experiment has the name.
    """
    if not isinstance(store, GatedTracking):
        raise InvalidInput(
            f"the tracking store of this server is {type(store).__name__}: the gate cannot own its experiments",
            expected="--backend-store-uri sqlite:…, postgresql:… or mysql:…",
        )
    for name in OWNED:
        found = _found(store, name) or _made(store, name)
        if name == DECISIONS:
            require_served(name, found)
        if not found.active:
            store._next().restore_experiment(found.experiment_id)


def require_served(name: str, found: FoundExperiment) -> None:
    """Refuse an experiment whose artifacts do not go through this server, or go into the sealed tree.

    Raises:
        InvalidInput: they do not.
    """
    place = parse(found.location)
    steps = place.path.strip("/").split("/") if place else []
    if place is None or (place.scheme, place.authority) != (SERVED, "") or steps[0].casefold() in ("", SEALED):
        raise InvalidInput(
            f"somebody made the experiment {name!r} (id {found.experiment_id}) so that what is written to it goes to "
            f"{found.location[:300]!a}",
            expected=f"an experiment whose artifacts this server serves ({SERVED}:/…), as the server itself makes it",
            next_step=f"rename it away, then start again: MLFLOW_TRACKING_URI=BACKEND_STORE_URI mlflow experiments "
            f"rename --experiment-id {found.experiment_id} --new-name {name}-foreign",
        )


def require_classified(store: type) -> None:
    """Refuse a tracking store with a method about runs, experiments or logged models that nobody has classified.

    Raises:
        InvalidInput: this MLflow is newer than the gate.
    """
    names = {name for name in dir(store) if not name.startswith("_") and callable(getattr(store, name))}
    unknown = sorted(name for name in names - GATED - STOCK if ABOUT.search(name))
    if unknown:
        raise InvalidInput(
            f"this MLflow's tracking store has methods that the gate does not know: {', '.join(unknown)}",
            expected="an MLflow version that this guardrail was made for",
            next_step="install the MLflow version that guardrail's constraints name, or a newer guardrail",
        )


def _gated(builder: Callable[..., Any]) -> Callable[..., Any]:
    def build(*given: Any, **more: Any) -> Any:
        store = builder(*given, **more)
        kind = type(store)
        if not issubclass(kind, GatedTracking):
            require_classified(kind)
            store.__class__ = type(f"Gated{kind.__name__}", (GatedTracking, kind), {})
        return store

    return build


def _found(store: Any, name: str) -> FoundExperiment | None:
    found = store.get_experiment_by_name(name)
    if found is None:
        return None
    if found.name != name:  # a database that folds names, such as MySQL's
        raise InvalidInput(
            f"the database takes the experiment {found.name!r} for {name!r}",
            expected=name,
            next_step=f"rename it away, then start again: mlflow experiments rename --experiment-id "
            f"{found.experiment_id} --new-name {name}-foreign",
        )
    return FoundExperiment(str(found.experiment_id), str(found.artifact_location), found.lifecycle_stage == "active")


def _made(store: Any, name: str) -> FoundExperiment:
    from mlflow.exceptions import MlflowException

    served = parse(os.environ.get(ARTIFACT_ROOT, "")) == parse(f"{SERVED}:/")
    try:
        store.create_experiment(name, artifact_location=None if served else f"{SERVED}:/{name}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another worker was faster
            raise
    found = _found(store, name)
    if found is None:
        raise InternalError(f"the experiment {name!r} was made, and is not there")
    return found


def _owned(what: str, name: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"{what} of the experiment {name!r} is not for clients to change: decisions and candidates are recorded there",
        expected="an experiment of your own",
        next_step="stop the server to maintain its database",
    )
