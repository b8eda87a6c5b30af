"""The longer moves of an attacker; ``bypass_attempts.py`` lists them all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import requests
from bypass import EVIL, WEIGHTS, Refused, Target

A = "production"
PROXY = "api/2.0/mlflow-artifacts/artifacts"
FULL_WIDTH_G, FULL_WIDTH_P = chr(0xFF47), chr(0xFF50)
Move = Callable[[Target], object]


def api(method: str, route: str, **values: object) -> Move:
    return lambda t: t.api(method, route, **{"name": t.name, **values})


def ajax(method: str, route: str, **values: object) -> Move:
    return lambda t: t.ajax(method, route, **{"name": t.name, **values})


def client(method: str, *values: object, **more: object) -> Move:
    return lambda t: getattr(t.client, method)(t.name, *values, **more)


def make_version(how: str, **more: object) -> Move:
    def move(t: Target) -> object:
        values = {key: value(t) if callable(value) else value for key, value in more.items()}
        return getattr(t, how)("POST", "model-versions/create", **version(t, **values))

    return move


def version(t: Target, **more: object) -> dict[str, object]:
    return {"name": t.name, "source": f"models:/{t.model_id}", "model_id": t.model_id, **more}


def forged_tags(t: Target) -> list[dict[str, str]]:
    found = t.client.get_model_version(t.name, "2").tags
    return [{"key": key, "value": value} for key, value in found.items()]


def other_model_with_alias(t: Target, name: str) -> None:
    t.api("POST", "registered-models/create", name=name)
    t.api("POST", "model-versions/create", **{**version(t), "name": name})
    t.api("POST", "registered-models/alias", name=name, alias=A, version="1")


def upper_case_name(t: Target) -> None:
    other_model_with_alias(t, t.name.upper())


def full_width_name(t: Target) -> None:
    other_model_with_alias(t, FULL_WIDTH_G + t.name[1:])


def version_by_client(t: Target) -> None:
    t.client.create_model_version(t.name, f"models:/{t.model_id}", model_id=t.model_id)


def version_of_itself(t: Target) -> None:
    t.api("POST", "model-versions/create", name=t.name, source=f"models:/{t.name}/1")


def copy_onto_guarded_name(t: Target) -> None:
    t.client.copy_model_version(f"models:/{t.name}/2", t.blank)


def verdict_tag(t: Target) -> None:
    t.api("POST", "model-versions/set-tag", name=t.name, version="1", key="guardrail.verdict", value="FAILED")


def renamed_away(t: Target) -> None:
    t.api("POST", "registered-models/rename", name=t.name, new_name=f"away-{t.scratch.name}")


def made(**values: object) -> Move:
    """The guarded name that is not registered yet."""
    return lambda t: t.api("POST", "registered-models/create", name=t.unborn, **values)


def stage(t: Target) -> None:
    values = {"name": t.name, "version": "1", "stage": "Production", "archive_existing_versions": False}
    t.api("POST", "model-versions/transition-stage", **values)


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


def multipart(t: Target, name: str, prefix: str = "api/2.0", files: str = "") -> None:
    address = f"{prefix}/mlflow-artifacts/mpu/{{}}/{files or t.files}"
    made = t.call("POST", address.format("create"), {"path": name, "num_parts": 1})
    part = made["credentials"][0]
    etag = send(part["url"], {})
    parts = [{"part_number": part["part_number"], "etag": etag, "url": part["url"]}]
    body = {"path": name, "upload_id": made["upload_id"], "parts": parts}
    t.call("POST", address.format("complete"), body)


def encoded_multipart(t: Target) -> None:
    multipart(t, WEIGHTS, files=encoded(t.files, 2))


def complete_only(t: Target) -> None:
    upload = t.scratch / "upload"
    upload.mkdir(exist_ok=True)
    (upload / "1").write_bytes(EVIL)
    body = {"path": WEIGHTS, "upload_id": str(upload), "parts": [{"part_number": 1, "etag": "", "url": "x"}]}
    t.call("POST", f"ajax-api/2.0/mlflow-artifacts/mpu/complete/{t.files}", body)


def presigned(t: Target, **which: str) -> None:
    made = t.api("POST", "artifacts/presigned-upload-url", path="chat_template.jinja", **which)
    send(made["presigned_url"], made.get("headers", {}))


def send(address: str, headers: dict[str, str]) -> str:
    """Use an address that a server handed out, behind its back; the tests' repository hands out files."""
    if not address.startswith("http"):
        Path(address).write_bytes(EVIL)
        return ""
    answer = requests.put(address, EVIL, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.headers["ETag"]


def presigned_run(t: Target) -> None:
    presigned(t, run_id=t.run_at(t.place))


def presigned_below(t: Target) -> None:
    presigned(t, run_id=t.run_at(f"{t.place}/evidence"))


def presigned_capitals(t: Target) -> None:
    presigned(t, run_id=t.run_at(t.place.replace("s3:", "S3:")))


def around_with_slash(t: Target) -> None:
    t.raw("DELETE", f"{PROXY}/{t.files.rpartition('/')[0]}/")


def presigned_model(t: Target) -> None:
    name = t.scratch.name
    made = t.api("POST", "experiments/create", name=f"presigned {name}", artifact_location=t.place)
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


def workspace_made(t: Target) -> None:
    t.call("POST", "api/3.0/mlflow/workspaces", {"name": f"v{t.scratch.name[-8:].lower()}"})


def assistant(t: Target) -> None:
    t.send("GET", "ajax-api/3.0/mlflow/assistant/config")


def job(t: Target) -> None:
    params = {"experiment_id": "0", "online_scorers": []}
    t.call("POST", "ajax-api/3.0/jobs/", {"job_name": "run_online_trace_scorer", "params": params})


def scorer(t: Target, prefix: str) -> None:
    code = {
        "name": "x",
        "call_source": "return open('/etc/passwd').read()",
        "call_signature": "(outputs)",
        "original_func_name": "x",
        "mlflow_version": "3.17.2",
        "serialization_version": 1,
    }
    body = {"experiment_id": "0", "name": f"x-{t.scratch.name}", "serialized_scorer": json.dumps(code)}
    t.call("POST", f"{prefix}/3.0/mlflow/scorers/register", body)
