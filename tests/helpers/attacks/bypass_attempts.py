"""The ways around the gate that were tried, one line each. docs/threat-model.md lists them by the same names.

Each must spoil a model on stock MLflow (or use what the gate has to switch off), and be refused by the gated server.
"""

from __future__ import annotations

from functools import partial

import bypass_adapter
import bypass_bases
import bypass_load
import bypass_moves as moves
import bypass_state
from bypass import EVIL, WEIGHTS
from bypass_attempt import Attempt
from bypass_hostile import HOSTILE
from bypass_http import HTTP_ATTEMPTS
from bypass_moves import FULL_WIDTH_P, PROXY, A, ajax, api, client, encoded, make_version, upload_at
from bypass_names import NAMES

through_proxy = partial(Attempt, depends=("artifacts",))
raw_path = partial(Attempt, depends=("server", "artifacts"))
on_disk, in_bucket = partial(Attempt, only="local"), partial(Attempt, only="s3")

REGISTRY = [
    Attempt("alias moved back, api", api("POST", "registered-models/alias", alias=A, version="1")),
    Attempt("alias moved back, ajax-api", ajax("POST", "registered-models/alias", alias=A, version="1")),
    Attempt("alias moved back, client", client("set_registered_model_alias", A, "1")),
    Attempt("alias deleted, api", api("DELETE", "registered-models/alias", alias=A)),
    Attempt("alias deleted, client", client("delete_registered_model_alias", A)),
    Attempt("alias deleted as a prompt's", client("delete_prompt_alias", A)),
    Attempt("alias in another case", client("set_registered_model_alias", "Production", "1")),
    Attempt("alias in full-width letters", client("set_registered_model_alias", FULL_WIDTH_P + A[1:], "1")),
    Attempt("alias with an accent", client("set_registered_model_alias", "productión", "1")),
    Attempt("version of a logged model without evidence, api", make_version("api")),
    Attempt("version of a logged model without evidence, ajax-api", make_version("ajax")),
    Attempt("version with another's tags", make_version("api", tags=moves.forged_tags)),
    Attempt("version with a forged description", make_version("api", description="gate: PASSED")),
    Attempt("version, client", moves.version_by_client),
    Attempt("version by mlflow.register_model", moves.register_model),
    Attempt("version of a run's files", lambda t: t.api("POST", "model-versions/create", **moves.run_source(t))),
    Attempt("version of proxied files", lambda t: t.api("POST", "model-versions/create", **moves.proxied_source(t))),
    Attempt("version of a foreign bucket", api("POST", "model-versions/create", source="s3://evil/model")),
    Attempt("version of the server's disk", moves.local_source),
    Attempt("version of itself", moves.version_of_itself),
    Attempt("copy_model_version", lambda t: t.client.copy_model_version(f"models:/{t.innocent}/1", t.name)),
    Attempt("copy_model_version onto a guarded name", moves.copy_onto_guarded_name),
    Attempt("description of the model, api", api("PATCH", "registered-models/update", description="gate: PASSED")),
    Attempt("description of the model, client", client("update_registered_model", "gate: PASSED")),
    Attempt("description of a version, api", api("PATCH", "model-versions/update", version="2", description="ok")),
    Attempt("description of a version, client", client("update_model_version", "1", "approved")),
    Attempt("tag of the model", api("POST", "registered-models/set-tag", key="approved", value="yes")),
    Attempt("tag that makes it a prompt", client("set_registered_model_tag", "mlflow.prompt.is_prompt", "true")),
    Attempt("verdict tag of a version", moves.verdict_tag),
    Attempt("any tag of a version, client", client("set_model_version_tag", "2", "approved", "yes")),
    Attempt("tag of a prompt's version", client("set_prompt_version_tag", "2", "approved", "yes")),
    Attempt("tag deleted", api("DELETE", "model-versions/delete-tag", version="2", key="guardrail.verdict")),
    Attempt("tag deleted, client", client("delete_model_version_tag", "1", "guardrail.verdict")),
    Attempt("renamed away", moves.renamed_away),
    Attempt("renamed onto a guarded name", lambda t: t.client.rename_registered_model(t.innocent, t.unborn)),
    Attempt("renamed onto another spelling", lambda t: t.client.rename_registered_model(t.innocent, t.unborn.upper())),
    Attempt("another case of the name", moves.upper_case_name, exact_only=True),
    Attempt("full-width letters in the name", moves.full_width_name, exact_only=True),
    Attempt("guarded name made with a description", moves.made(description="gate: PASSED")),
    Attempt("guarded name made with a tag", moves.made(tags=[{"key": "a", "value": "b"}])),
    Attempt("guarded name made a prompt", moves.prompt_on_guarded_name),
    Attempt("guarded name made a prompt, client", moves.register_prompt),
    Attempt("version deleted, api", api("DELETE", "model-versions/delete", version="2")),
    Attempt("version deleted, client", client("delete_model_version", "1")),
    Attempt("model deleted, api", api("DELETE", "registered-models/delete")),
    Attempt("model deleted, client", client("delete_registered_model")),
    Attempt("stage", moves.stage),
    Attempt("stage, archiving the others", client("transition_model_version_stage", "1", "Staging", True)),
]

ARTIFACTS = [
    through_proxy("weights overwritten, api", lambda t: t.put(f"{t.files}/{WEIGHTS}")),
    through_proxy("weights overwritten, ajax-api", lambda t: t.put(f"{t.files}/{WEIGHTS}", "ajax-api/2.0")),
    through_proxy("file put beside the weights", lambda t: t.put(f"{t.files}/chat_template.jinja")),
    through_proxy("evidence overwritten", lambda t: t.put(f"{t.files}/evidence/decision.dsse.json")),
    raw_path("path with an encoded letter", lambda t: t.raw("PUT", f"{PROXY}/{encoded(t.files)}/{WEIGHTS}", EVIL)),
    raw_path("path encoded twice", lambda t: t.raw("PUT", f"{PROXY}/{encoded(t.files, 2)}/{WEIGHTS}", EVIL)),
    through_proxy("weights deleted, api", lambda t: t.delete(f"{t.files}/{WEIGHTS}")),
    through_proxy("weights deleted, ajax-api", lambda t: t.delete(f"{t.files}/{WEIGHTS}", "ajax-api/2.0")),
    through_proxy("directory deleted", lambda t: t.delete(t.files)),
    through_proxy("directory around deleted", lambda t: t.delete(t.files.rpartition("/")[0])),
    raw_path("percent-encoded path deleted", lambda t: t.raw("DELETE", f"{PROXY}/{encoded(t.files, 2)}")),
    on_disk("everything deleted", moves.everything),
    on_disk("put through a symbolic link", moves.put_through_link),
    through_proxy("multipart upload over the weights", lambda t: moves.multipart(t, WEIGHTS)),
    through_proxy("multipart upload of a new file", lambda t: moves.multipart(t, "chat_template.jinja")),
    on_disk("multipart upload completed only", moves.complete_only),
    through_proxy("presigned upload into a run", moves.presigned_run),
    through_proxy("presigned upload into a logged model", moves.presigned_model),
    on_disk("experiment at file://", upload_at(lambda t: t.disk.as_uri())),
    on_disk("experiment at a plain path", upload_at(lambda t: str(t.disk))),
    on_disk("experiment at file://localhost", upload_at(lambda t: f"file://localhost{t.disk}")),
    on_disk("experiment at a percent-encoded path", upload_at(lambda t: f"file://{encoded(str(t.disk))}")),
    on_disk("experiment at a path with dots", upload_at(lambda t: f"file://{t.disk.parent}/x/../{t.disk.name}")),
    on_disk("experiment at a symbolic link", upload_at(lambda t: moves.link(t, t.scratch / "links").as_uri())),
    through_proxy("experiment below the files", upload_at(lambda t: f"{t.place}/evidence")),
    through_proxy("experiment at mlflow-artifacts:", moves.proxied_location),
    through_proxy("experiment at mlflow-artifacts:, client", moves.log_artifact),
]

BUCKET = [
    in_bucket("experiment at s3://", upload_at(lambda t: t.place)),
    in_bucket("experiment at S3://", upload_at(lambda t: t.place.replace("s3:", "S3:"))),
    in_bucket("experiment at s3:// with a slash at the end", upload_at(lambda t: f"{t.place}/")),
    in_bucket("multipart upload into a percent-encoded path", moves.encoded_multipart),
    in_bucket("multipart upload, ajax-api", lambda t: moves.multipart(t, WEIGHTS, "ajax-api/2.0")),
    in_bucket("presigned upload below the files", moves.presigned_below),
    in_bucket("presigned upload at S3://", moves.presigned_capitals),
    in_bucket("directory deleted with a slash at the end", lambda t: t.raw("DELETE", f"{PROXY}/{t.files}/")),
    in_bucket("directory around deleted with a slash at the end", moves.around_with_slash),
]

FEATURES = [
    Attempt("workspace deleted into the default one", moves.workspace, workspaces=True),
    Attempt("workspace created", moves.workspace_made, feature=True, workspaces=True),
    Attempt("job submitted", moves.job, feature=True, asgi_only=True),
    Attempt("custom scorer, api", lambda t: moves.scorer(t, "api"), feature=True),
    Attempt("custom scorer, ajax-api", lambda t: moves.scorer(t, "ajax-api"), feature=True),
    Attempt("assistant", moves.assistant, feature=True, asgi_only=True),
]

HTTP = [Attempt(name, move) for name, move in HTTP_ATTEMPTS]
ADAPTERS = [Attempt(name, attack, anywhere=True) for name, attack in bypass_adapter.MOVES.items()]
BASES = [Attempt(name, move, anywhere=True) for name, move in bypass_bases.MOVES.items()]
STATE = [Attempt(name, move) for name, move in bypass_state.MOVES]
LOAD = [through_proxy(name, move) for name, move in bypass_load.MOVES.items()]

GROUPS = {
    "Registry, over `api`, `ajax-api` and MLflow's client": REGISTRY,
    "The same in another dress: routes, fields, encodings, numbers": HTTP,
    "Names: look-alikes, and what only some collations take for the guarded one": NAMES,
    "Adapters that are not what is measured, well signed": ADAPTERS,
    "Other bases than the pinned ones, and policies that promise less than the trust file asks, well signed": BASES,
    "Numbers, revocations and time": STATE,
    "What keeps others out": LOAD,
    "The gate's experiment and what lies in it": HOSTILE,
    "Artifacts": ARTIFACTS,
    "Artifacts in a bucket": BUCKET,
    "What the launcher switches off, because the gate cannot cover it": FEATURES,
}
"""How docs/threat-model.md groups them."""

ATTEMPTS = [attempt for group in GROUPS.values() for attempt in group]
