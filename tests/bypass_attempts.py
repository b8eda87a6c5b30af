"""The ways around the gate that were tried, one line each. docs/server.md lists them by the same names.

Each must spoil a model on stock MLflow (or use what the gate has to switch off), and be refused by the gated server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bypass import EVIL, WEIGHTS, Refused, Target

A = "production"


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Args:
        feature: it uses what must be off, so an answer is success enough.
        workspaces: stock MLflow needs them enabled.
        asgi_only: stock MLflow has it under uvicorn only.
        exact_only: it needs a database that tells names apart that a folding one does not.
    """

    name: str
    attack: Callable[[Target], object]
    feature: bool = False
    workspaces: bool = False
    asgi_only: bool = False
    exact_only: bool = False


def version(t: Target, source: str = "", **more: object) -> dict[str, object]:
    return {"name": t.name, "source": source or f"models:/{t.model_id}", "model_id": t.model_id, **more}


def forged_tags(t: Target) -> list[dict[str, str]]:
    found = t.client.get_model_version(t.name, "2").tags
    return [{"key": key, "value": value} for key, value in found.items()]


def other_model_with_alias(t: Target, name: str) -> None:
    t.api("POST", "registered-models/create", name=name)
    t.api("POST", "model-versions/create", **{**version(t), "name": name})
    t.api("POST", "registered-models/alias", name=name, alias=A, version="1")


def prompt_on_guarded_name(t: Target) -> None:
    tag = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    t.api("POST", "registered-models/create", name=t.unborn, tags=[tag])


def register_model(t: Target) -> None:
    import mlflow

    mlflow.register_model(f"models:/{t.model_id}", t.name)


def register_prompt(t: Target) -> None:
    import mlflow

    mlflow.genai.register_prompt(name=t.unborn, template="say yes to {{everything}}")


def run_source(t: Target) -> dict[str, object]:
    return {"name": t.name, "source": f"runs:/{t.run_id}/stuff", "run_id": t.run_id}


def proxied_source(t: Target) -> dict[str, object]:
    location = t.client.get_run(t.run_id).info.artifact_uri
    return {"name": t.name, "source": f"{location}/stuff", "run_id": t.run_id}


def local_source(t: Target) -> None:
    run_id = t.run_at(t.scratch.as_uri())
    location = str(t.client.get_run(run_id).info.artifact_uri)
    t.api("POST", "model-versions/create", name=t.name, source=location, run_id=run_id)


def encoded(path: str, times: int = 1) -> str:
    head, _, last = path.rpartition("/")
    mark = "%" + "25" * (times - 1)
    return f"{head}/{mark}{ord(last[0]):02x}{last[1:]}" if head else f"{mark}{ord(last[0]):02x}{last[1:]}"


def multipart(t: Target, name: str) -> None:
    made = t.call("POST", f"api/2.0/mlflow-artifacts/mpu/create/{t.files}", {"path": name, "num_parts": 1})
    part = made["credentials"][0]
    Path(part["url"]).write_bytes(EVIL)
    parts = [{"part_number": part["part_number"], "etag": "", "url": part["url"]}]
    body = {"path": name, "upload_id": made["upload_id"], "parts": parts}
    t.call("POST", f"api/2.0/mlflow-artifacts/mpu/complete/{t.files}", body)


def complete_only(t: Target) -> None:
    upload = t.scratch / "upload"
    upload.mkdir(exist_ok=True)
    (upload / "1").write_bytes(EVIL)
    body = {"path": WEIGHTS, "upload_id": str(upload), "parts": [{"part_number": 1, "etag": "", "url": "x"}]}
    t.call("POST", f"ajax-api/2.0/mlflow-artifacts/mpu/complete/{t.files}", body)


def presigned(t: Target, **which: str) -> None:
    made = t.api("POST", "artifacts/presigned-upload-url", path="chat_template.jinja", **which)
    Path(made["presigned_url"]).write_bytes(EVIL)


def presigned_run(t: Target) -> None:
    presigned(t, run_id=t.run_at(t.disk.as_uri()))


def presigned_model(t: Target) -> None:
    name = t.scratch.name
    made = t.api("POST", "experiments/create", name=f"presigned {name}", artifact_location=t.disk.as_uri())
    model = t.api("POST", "logged-models", experiment_id=made["experiment_id"], name="x")
    presigned(t, model_id=model["model"]["info"]["model_id"])


def upload_at(location: Callable[[Target], str]) -> Callable[[Target], None]:
    return lambda t: t.upload(t.run_at(location(t)), "evil.bin")


def link(t: Target, inside: Path) -> Path:
    """A symbolic link that somebody once made on the server's disk."""
    made = inside / f"link-{t.scratch.name}"
    if not made.is_symlink():
        inside.mkdir(parents=True, exist_ok=True)
        made.symlink_to(t.disk)
    return made


def put_through_link(t: Target) -> None:
    t.put(f"{link(t, t.running.destination).name}/{WEIGHTS}")


def proxied_location(t: Target) -> None:
    run_id = t.run_at(f"mlflow-artifacts:/{t.files}")
    t.put(f"{t.files}/{run_id}/artifacts/evil.bin")


def log_artifact(t: Target) -> None:
    run_id = t.run_at(f"mlflow-artifacts:/{t.files}")
    file = t.scratch / "evil.bin"
    file.write_bytes(EVIL)
    t.client.log_artifact(run_id, str(file))


def everything(t: Target) -> None:
    try:
        t.raw("DELETE", "api/2.0/mlflow-artifacts/artifacts/./.")
    except Refused:  # stock MLflow deletes all that is inside, and then stumbles over the root itself
        if t.disk.exists():
            raise


def workspace(t: Target) -> None:
    name = f"w-{t.scratch.name}"[:40].lower().replace("_", "-")
    t.call("POST", "api/3.0/mlflow/workspaces", {"name": name})
    header = {"X-MLFLOW-WORKSPACE": name}
    t.call("POST", "api/2.0/mlflow/registered-models/create", {"name": t.unborn}, **header)
    body = {"name": t.unborn, "source": "s3://evil/model"}
    t.call("POST", "api/2.0/mlflow/model-versions/create", body, **header)
    t.session.delete(
        f"{t.running.uri}/api/3.0/mlflow/workspaces/{name}", params={"mode": "SET_DEFAULT"}
    ).raise_for_status()


def job(t: Target) -> None:
    params = {"experiment_id": "0", "online_scorers": []}
    t.call("POST", "ajax-api/3.0/jobs/", {"job_name": "run_online_trace_scorer", "params": params})


def scorer(t: Target, prefix: str) -> None:
    code = {"name": "x", "call_source": "return open('/etc/passwd').read()", "call_signature": "(outputs)",
            "original_func_name": "x", "mlflow_version": "3.17.2", "serialization_version": 1}  # fmt: skip
    body = {"experiment_id": "0", "name": f"x-{t.scratch.name}", "serialized_scorer": json.dumps(code)}
    t.call("POST", f"{prefix}/3.0/mlflow/scorers/register", body)


REGISTRY = [
    Attempt("alias moved back, api", lambda t: t.api("POST", "registered-models/alias", name=t.name, alias=A, version="1")),
    Attempt("alias moved back, ajax-api", lambda t: t.ajax("POST", "registered-models/alias", name=t.name, alias=A, version="1")),
    Attempt("alias moved back, client", lambda t: t.client.set_registered_model_alias(t.name, A, "1")),
    Attempt("alias deleted, api", lambda t: t.api("DELETE", "registered-models/alias", name=t.name, alias=A)),
    Attempt("alias deleted, client", lambda t: t.client.delete_registered_model_alias(t.name, A)),
    Attempt("alias deleted as a prompt's", lambda t: t.client.delete_prompt_alias(t.name, A)),
    Attempt("alias in another case", lambda t: t.client.set_registered_model_alias(t.name, "Production", "1")),
    Attempt("alias in full-width letters", lambda t: t.client.set_registered_model_alias(t.name, "ｐroduction", "1")),
    Attempt("alias with an accent", lambda t: t.client.set_registered_model_alias(t.name, "productión", "1")),
    Attempt("version of a logged model without evidence, api", lambda t: t.api("POST", "model-versions/create", **version(t))),
    Attempt("version of a logged model without evidence, ajax-api", lambda t: t.ajax("POST", "model-versions/create", **version(t))),
    Attempt("version with another's tags", lambda t: t.api("POST", "model-versions/create", **version(t, tags=forged_tags(t)))),
    Attempt("version with a forged description", lambda t: t.api("POST", "model-versions/create", **version(t, description="gate: PASSED"))),
    Attempt("version, client", lambda t: t.client.create_model_version(t.name, f"models:/{t.model_id}", model_id=t.model_id)),
    Attempt("version by mlflow.register_model", register_model),
    Attempt("version of a run's files", lambda t: t.api("POST", "model-versions/create", **run_source(t))),
    Attempt("version of proxied files", lambda t: t.api("POST", "model-versions/create", **proxied_source(t))),
    Attempt("version of a foreign bucket", lambda t: t.api("POST", "model-versions/create", name=t.name, source="s3://evil/model")),
    Attempt("version of the server's disk", local_source),
    Attempt("version of itself", lambda t: t.api("POST", "model-versions/create", name=t.name, source=f"models:/{t.name}/1")),
    Attempt("copy_model_version", lambda t: t.client.copy_model_version(f"models:/{t.innocent}/1", t.name)),
    Attempt("copy_model_version onto a guarded name", lambda t: t.client.copy_model_version(f"models:/{t.name}/2", t.unborn)),
    Attempt("description of the model, api", lambda t: t.api("PATCH", "registered-models/update", name=t.name, description="gate: PASSED")),
    Attempt("description of the model, client", lambda t: t.client.update_registered_model(t.name, "gate: PASSED")),
    Attempt("description of a version, api", lambda t: t.api("PATCH", "model-versions/update", name=t.name, version="2", description="approved")),
    Attempt("description of a version, ajax-api", lambda t: t.ajax("PATCH", "model-versions/update", name=t.name, version="1", description="approved")),
    Attempt("tag of the model", lambda t: t.api("POST", "registered-models/set-tag", name=t.name, key="approved", value="yes")),
    Attempt("tag that makes it a prompt", lambda t: t.client.set_registered_model_tag(t.name, "mlflow.prompt.is_prompt", "true")),
    Attempt("verdict tag of a version", lambda t: t.api("POST", "model-versions/set-tag", name=t.name, version="1", key="guardrail.verdict", value="FAILED")),
    Attempt("any tag of a version, client", lambda t: t.client.set_model_version_tag(t.name, "2", "approved", "yes")),
    Attempt("tag of a prompt's version", lambda t: t.client.set_prompt_version_tag(t.name, "2", "approved", "yes")),
    Attempt("tag deleted", lambda t: t.api("DELETE", "model-versions/delete-tag", name=t.name, version="2", key="guardrail.verdict")),
    Attempt("tag deleted, client", lambda t: t.client.delete_model_version_tag(t.name, "1", "guardrail.verdict")),
    Attempt("renamed away", lambda t: t.api("POST", "registered-models/rename", name=t.name, new_name=f"away-{t.scratch.name}")),
    Attempt("renamed onto a guarded name", lambda t: t.client.rename_registered_model(t.innocent, t.unborn)),
    Attempt("renamed onto another spelling", lambda t: t.client.rename_registered_model(t.innocent, t.unborn.upper())),
    Attempt("another case of the name", lambda t: other_model_with_alias(t, t.name.upper()), exact_only=True),
    Attempt("full-width letters in the name", lambda t: other_model_with_alias(t, f"ｇ{t.name[1:]}"), exact_only=True),
    Attempt("guarded name made with a description", lambda t: t.api("POST", "registered-models/create", name=t.unborn, description="gate: PASSED")),
    Attempt("guarded name made with a tag", lambda t: t.api("POST", "registered-models/create", name=t.unborn, tags=[{"key": "a", "value": "b"}])),
    Attempt("guarded name made a prompt", prompt_on_guarded_name),
    Attempt("guarded name made a prompt, client", register_prompt),
    Attempt("version deleted, api", lambda t: t.api("DELETE", "model-versions/delete", name=t.name, version="2")),
    Attempt("version deleted, client", lambda t: t.client.delete_model_version(t.name, "1")),
    Attempt("model deleted, api", lambda t: t.api("DELETE", "registered-models/delete", name=t.name)),
    Attempt("model deleted, client", lambda t: t.client.delete_registered_model(t.name)),
    Attempt("stage", lambda t: t.api("POST", "model-versions/transition-stage", name=t.name, version="1", stage="Production", archive_existing_versions=False)),
    Attempt("stage, archiving the others", lambda t: t.client.transition_model_version_stage(t.name, "1", "Staging", archive_existing_versions=True)),
]  # fmt: skip

ARTIFACTS = [
    Attempt("weights overwritten, api", lambda t: t.put(f"{t.files}/{WEIGHTS}")),
    Attempt("weights overwritten, ajax-api", lambda t: t.put(f"{t.files}/{WEIGHTS}", "ajax-api/2.0")),
    Attempt("file put beside the weights", lambda t: t.put(f"{t.files}/chat_template.jinja")),
    Attempt("evidence overwritten", lambda t: t.put(f"{t.files}/evidence/decision.dsse.json")),
    Attempt("path with one percent-encoded letter", lambda t: t.raw("PUT", f"api/2.0/mlflow-artifacts/artifacts/{encoded(t.files)}/{WEIGHTS}", EVIL)),
    Attempt("path encoded twice", lambda t: t.raw("PUT", f"api/2.0/mlflow-artifacts/artifacts/{encoded(t.files, 2)}/{WEIGHTS}", EVIL)),
    Attempt("weights deleted, api", lambda t: t.delete(f"{t.files}/{WEIGHTS}")),
    Attempt("weights deleted, ajax-api", lambda t: t.delete(f"{t.files}/{WEIGHTS}", "ajax-api/2.0")),
    Attempt("directory deleted", lambda t: t.delete(t.files)),
    Attempt("directory around deleted", lambda t: t.delete(t.files.rpartition("/")[0])),
    Attempt("percent-encoded path deleted", lambda t: t.raw("DELETE", f"api/2.0/mlflow-artifacts/artifacts/{encoded(t.files, 2)}")),
    Attempt("everything deleted", everything),
    Attempt("put through a symbolic link", put_through_link),
    Attempt("multipart upload over the weights", lambda t: multipart(t, WEIGHTS)),
    Attempt("multipart upload of a new file", lambda t: multipart(t, "chat_template.jinja")),
    Attempt("multipart upload completed only", complete_only),
    Attempt("presigned upload into a run", presigned_run),
    Attempt("presigned upload into a logged model", presigned_model),
    Attempt("experiment at file://", upload_at(lambda t: t.disk.as_uri())),
    Attempt("experiment at a plain path", upload_at(lambda t: str(t.disk))),
    Attempt("experiment at file://localhost", upload_at(lambda t: t.disk.as_uri().replace("file://", "file://localhost"))),
    Attempt("experiment at a percent-encoded path", upload_at(lambda t: f"file://{encoded(str(t.disk))}")),
    Attempt("experiment at a path with dots", upload_at(lambda t: f"file://{t.disk.parent}/x/../{t.disk.name}")),
    Attempt("experiment at a symbolic link", upload_at(lambda t: link(t, t.scratch / "links").as_uri())),
    Attempt("experiment below the files", upload_at(lambda t: f"{t.disk.as_uri()}/evidence")),
    Attempt("experiment at mlflow-artifacts:", proxied_location),
    Attempt("experiment at mlflow-artifacts:, client", log_artifact),
]  # fmt: skip

FEATURES = [
    Attempt("workspace deleted into the default one", workspace, workspaces=True),
    Attempt("workspace created", lambda t: t.call("POST", "api/3.0/mlflow/workspaces", {"name": f"v{t.scratch.name[-8:].lower()}"}), feature=True, workspaces=True),
    Attempt("job submitted", job, feature=True, asgi_only=True),
    Attempt("custom scorer, api", lambda t: scorer(t, "api"), feature=True),
    Attempt("custom scorer, ajax-api", lambda t: scorer(t, "ajax-api"), feature=True),
    Attempt("assistant", lambda t: t.send("GET", "ajax-api/3.0/mlflow/assistant/config"), feature=True, asgi_only=True),
]  # fmt: skip

ATTEMPTS = [*REGISTRY, *ARTIFACTS, *FEATURES]
