"""The same changes in other dress: how a request may be spelt over HTTP so that somebody who reads it misunderstands.

Each is taken by stock MLflow; the gate judges what MLflow understood, not what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from bypass import Refused, Target
from bypass_moves import A, Move, ajax, api, client, version

ALIAS = "api/2.0/mlflow/registered-models/alias"
Dress = Callable[[str], bytes]


def moved_back(t: Target) -> str:
    """The body that moves the alias back."""
    return json.dumps({"name": t.name, "alias": A, "version": "1"})


def body(dress: Dress, content_type: str = "application/json", path: str = ALIAS) -> Move:
    """The alias moved back by a body in this dress."""

    def move(t: Target) -> None:
        answer = t.session.post(
            f"{t.running.uri}/{path}", data=dress(moved_back(t)), headers={"Content-Type": content_type}, timeout=30
        )
        if not answer.ok:
            raise Refused(f"{answer.status_code} {answer.text[:500]}")

    return move


def in_escapes(text: str) -> bytes:
    """Every letter of a value as ``\\uXXXX``."""
    values: dict[str, str] = json.loads(text)
    spelt = {key: "".join(f"\\u{ord(letter):04x}" for letter in value) for key, value in values.items()}
    return ("{" + ",".join(f'"{key}":"{value}"' for key, value in spelt.items()) + "}").encode()


def with_an_innocent_name_first(text: str) -> bytes:
    """JSON in which ``name`` is there twice: the last one counts."""
    return ('{"name": "innocent", ' + text[1:]).encode()


def with_unknown_fields(text: str) -> bytes:
    """Fields that MLflow does not know, one of them looking like another name."""
    return ('{"Name": "innocent", "registered_model": {"name": "innocent"}, ' + text[1:]).encode()


def renamed_over_ajax(t: Target) -> None:
    t.ajax("POST", "registered-models/rename", name=t.name, new_name=f"away-{t.scratch.name}")


def spelt(number: str) -> Move:
    """The alias moved back, the version spelt so that it is not equal to ``1``."""
    return api("POST", "registered-models/alias", alias=A, version=number)


def stage_over_ajax(t: Target) -> None:
    values = {"name": t.name, "version": "1", "stage": "Production", "archive_existing_versions": True}
    t.ajax("POST", "model-versions/transition-stage", **values)


def version_in_camel_case(t: Target) -> None:
    values = version(t)
    t.api("POST", "model-versions/create", name=values["name"], source=values["source"], modelId=values["model_id"])


def made_over_ajax(t: Target) -> None:
    tag = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    t.ajax("POST", "registered-models/create", name=t.unborn, tags=[tag], description="gate: PASSED")


def onto_unborn_over_ajax(t: Target) -> None:
    t.ajax("POST", "registered-models/rename", name=t.innocent, new_name=t.unborn)


HTTP_ATTEMPTS: list[tuple[str, Move]] = [
    ("alias deleted, ajax-api", ajax("DELETE", "registered-models/alias", alias=A)),
    ("description of the model, ajax-api", ajax("PATCH", "registered-models/update", description="gate: PASSED")),
    ("description of a version, ajax-api", ajax("PATCH", "model-versions/update", version="1", description="ok")),
    ("tag of the model, ajax-api", ajax("POST", "registered-models/set-tag", key="approved", value="yes")),
    ("tag of a version, ajax-api", ajax("POST", "model-versions/set-tag", version="2", key="approved", value="yes")),
    ("tag deleted, ajax-api", ajax("DELETE", "model-versions/delete-tag", version="2", key="guardrail.verdict")),
    ("renamed away, ajax-api", renamed_over_ajax),
    ("renamed onto a guarded name, ajax-api", onto_unborn_over_ajax),
    ("version deleted, ajax-api", ajax("DELETE", "model-versions/delete", version="2")),
    ("model deleted, ajax-api", ajax("DELETE", "registered-models/delete")),
    ("stage, ajax-api, archiving the others", stage_over_ajax),
    ("guarded name made a prompt, ajax-api", made_over_ajax),
    ("version of a logged model, fields in camel case", version_in_camel_case),
    ("version deleted as a prompt's", client("delete_prompt_version", "1")),
    ("tag of the model set as a prompt's", client("set_prompt_tag", "approved", "yes")),
    ("tag of a version deleted as a prompt's", client("delete_prompt_version_tag", "2", "guardrail.verdict")),
    ("alias moved back, body encoded twice", body(lambda text: json.dumps(text).encode())),
    ("alias moved back, body in escapes", body(in_escapes)),
    ("alias moved back, body in UTF-16", body(lambda text: text.encode("utf-16"))),
    ("alias moved back, body in UTF-32", body(lambda text: text.encode("utf-32-be"))),
    ("alias moved back, body with a byte order mark", body(lambda text: text.encode("utf-8-sig"))),
    ("alias moved back, name there twice", body(with_an_innocent_name_first)),
    ("alias moved back, unknown fields beside", body(with_unknown_fields)),
    ("alias moved back, type with a character set", body(str.encode, "application/json; charset=utf-16")),
    ("alias moved back, path percent-encoded", body(str.encode, path=ALIAS.replace("alias", "%61lias"))),
    ("alias moved back, query beside the body", body(str.encode, path=f"{ALIAS}?name=innocent&version=2")),
    ("alias moved back, version with a zero before", spelt("01")),
    ("alias moved back, version with a plus", spelt("+1")),
    ("alias moved back, version with spaces", spelt(" 1 ")),
    ("alias moved back, version in full-width digits", spelt(chr(0xFF11))),
    ("alias moved back, version in Arabic digits", spelt(chr(0x0661))),
    ("evidence deleted, api", lambda t: t.delete(f"{t.files}/evidence/decision.dsse.json")),
    ("evidence deleted, ajax-api", lambda t: t.delete(f"{t.files}/evidence", "ajax-api/2.0")),
]
