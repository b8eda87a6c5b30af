"""Stage statements: whole, in one form, and about what they bind."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from stage_chains import BOUND, chain
from trust_files import NOW, public

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.statements.stage_statement import STAGES, Approval, Stage, StagePredicate, build, parse

PAYLOADS = {stage: unverified_payload(data) for stage, data in chain().items()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_statement_comes_back_and_has_the_form_of_in_toto(stage: Stage) -> None:
    found = parse(PAYLOADS[stage])
    assert found.stage == stage
    assert build(stage, found.predicate) == PAYLOADS[stage]
    plain = json.loads(PAYLOADS[stage])
    assert plain["_type"] == "https://in-toto.io/Statement/v1"
    assert plain["predicateType"] == f"urn:mlflow-guardrail:{stage}:v1"
    wanted = {"dataset": BOUND.dataset} if stage == "data" else {"adapter": BOUND.manifest}
    assert found.subjects == wanted


def test_securesystemslib_alone_verifies_it() -> None:
    Envelope.from_dict(json.loads(chain()["evaluate"])).verify(public("evaluate"), 1)


def change(stage: Stage, how: Callable[[dict[str, Any]], object]) -> bytes:
    plain = json.loads(PAYLOADS[stage])
    how(plain)
    return canonical(plain)


def set_in(*path: str | int, value: Any) -> Callable[[dict[str, Any]], object]:
    def setting(plain: dict[str, Any]) -> None:
        place: Any = plain
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return setting


CHANGES: dict[str, tuple[Stage, Callable[[dict[str, Any]], object]]] = {
    "an unknown field": ("train", set_in("note", value=1)),
    "an unknown field deep inside": ("train", set_in("predicate", "bound", "note", value=1)),
    "another predicate": ("train", set_in("predicateType", value="urn:mlflow-guardrail:deploy:v1")),
    "another stage's predicate": ("train", set_in("predicateType", value="urn:mlflow-guardrail:data:v1")),
    "another subject": ("train", set_in("subject", 0, "digest", "sha256", value="0" * 64)),
    "a subject of another name": ("train", set_in("subject", 0, "name", value="dataset")),
    "a second subject": ("train", lambda plain: plain["subject"].append({"name": "b", "digest": {"sha256": "0" * 64}})),
    "no adapter at the training stage": ("train", set_in("predicate", "bound", "manifest", value=None)),
    "no suites at the evaluation": ("evaluate", set_in("predicate", "bound", "suites", value=[])),
    "suites out of order": ("evaluate", lambda plain: plain["predicate"]["bound"]["suites"].reverse()),
    "a suite twice": (
        "evaluate",
        lambda plain: plain["predicate"]["bound"]["suites"].append(plain["predicate"]["bound"]["suites"][-1]),
    ),
    "no judges at the evaluation": ("evaluate", set_in("predicate", "bound", "judges", value=None)),
    "no dataset": ("data", set_in("predicate", "bound", "dataset", value=None)),
    "no nonce": ("data", lambda plain: plain["predicate"]["bound"].pop("nonce")),
    "a short nonce": ("data", set_in("predicate", "bound", "nonce", value="ab")),
    "nothing before the training": ("train", set_in("predicate", "after", value=None)),
    "something before the data": ("data", set_in("predicate", "after", value="0" * 64)),
    "an evaluation that approves": (
        "evaluate",
        set_in("predicate", "approval", value={"approved": True, "reason": ""}),
    ),
    "an approval that says nothing": ("approve", set_in("predicate", "approval", value=None)),
    "an expiry before the beginning": ("data", set_in("predicate", "expires", value="2020-01-01T00:00:00Z")),
    "a local time": ("data", set_in("predicate", "expires", value="2030-01-01T00:00:00+01:00")),
    "a time in another spelling": ("data", set_in("predicate", "expires", value="2030-01-01T00:00:00+00:00")),
    "a reserved alias": ("data", set_in("predicate", "bound", "alias", value="latest")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_statement_is_refused(name: str) -> None:
    with pytest.raises(EvidenceInvalid):
        parse(change(*CHANGES[name]))


def test_other_bytes_for_the_same_statement_are_refused() -> None:
    for other in (json.dumps(json.loads(PAYLOADS["data"])).encode(), PAYLOADS["data"] + b"\n", b"", b"null", b"\xff"):
        with pytest.raises(EvidenceInvalid):
            parse(other)


def test_an_incomplete_statement_is_not_made() -> None:
    whole = StagePredicate(
        bound=BOUND, record="0" * 64, after="1" * 64, not_before=NOW, expires=NOW + timedelta(days=1)
    )
    assert parse(build("evaluate", whole)).predicate == whole
    for stage, changes in (
        ("evaluate", {"after": None}),
        ("evaluate", {"approval": Approval(approved=True)}),
        ("evaluate", {"bound": BOUND.model_copy(update={"judges": None})}),
        ("train", {"bound": BOUND.model_copy(update={"manifest": None})}),
        ("approve", {}),
        ("data", {}),
    ):
        with pytest.raises(ValidationError):
            build(stage, whole.model_copy(update=changes))  # type: ignore[arg-type]
