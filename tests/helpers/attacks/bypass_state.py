"""Attempts on what a version says of itself and on where an alias stands: tags that lie about validity, revocation or
evidence, numbers in other spellings, and names that are deleted and made again."""

from __future__ import annotations

from bypass import Target
from bypass_moves import A, Move, ajax, api, client

FAR = "2999-01-01T00:00:00+00:00"
REVOKED, UNTIL, VERDICT = "guardrail.revoked", "guardrail.valid_until", "guardrail.verdict"
EVIDENCE, ADAPTER = "guardrail.evidence_sha256", "guardrail.adapter_sha256"
OTHER = "ab" * 32
SET = "model-versions/set-tag"


def deleted_and_made_again(how: str) -> Move:
    """The name starts again: its numbers, too."""

    def move(t: Target) -> None:
        call = getattr(t, how)
        call("DELETE", "registered-models/delete", name=t.name)
        call("POST", "registered-models/create", name=t.name)
        call("POST", "model-versions/create", name=t.name, source=f"models:/{t.model_id}", model_id=t.model_id)
        call("POST", "registered-models/alias", name=t.name, alias=A, version="1")

    return move


def alias_deleted_and_set_back(t: Target) -> None:
    t.api("DELETE", "registered-models/alias", name=t.name, alias=A)
    t.api("POST", "registered-models/alias", name=t.name, alias=A, version="1")


def tags_of_another_version(t: Target) -> None:
    for key, value in t.client.get_model_version(t.name, "1").tags.items():
        t.api("POST", SET, name=t.name, version="2", key=key, value=f"{value} ")


MOVES: tuple[tuple[str, Move], ...] = (
    ("validity tag prolonged, api", api("POST", SET, version="2", key=UNTIL, value=FAR)),
    ("validity tag prolonged, ajax-api", ajax("POST", SET, version="2", key=UNTIL, value=FAR)),
    ("validity tag prolonged, client", client("set_model_version_tag", "1", UNTIL, FAR)),
    ("evidence tag that names other evidence", api("POST", SET, version="2", key=EVIDENCE, value=OTHER)),
    ("adapter tag that names another adapter", client("set_model_version_tag", "2", ADAPTER, OTHER)),
    ("tags of one version on another", tags_of_another_version),
    ("revoked tag on what was not revoked", api("POST", SET, version="2", key=REVOKED, value="yesterday")),
    ("revoked tag on what was not revoked, client", client("set_model_version_tag", "1", REVOKED, "yesterday")),
    ("verdict tag that says revoked, ajax-api", ajax("POST", SET, version="2", key=VERDICT, value="REVOKED")),
    ("description that says revoked", ajax("PATCH", "model-versions/update", version="2", description="REVOKED")),
    ("alias moved back to a number with a zero in front", client("set_registered_model_alias", A, "01")),
    ("alias moved back to a number with a space", api("POST", "registered-models/alias", alias=A, version=" 1")),
    ("alias moved back to a number with a sign", ajax("POST", "registered-models/alias", alias=A, version="+1")),
    ("alias deleted and set back", alias_deleted_and_set_back),
    ("model deleted and made again, api", deleted_and_made_again("api")),
    ("model deleted and made again, ajax-api", deleted_and_made_again("ajax")),
)
