"""Whether a statement says what the records show is found without any key, and each difference has its words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from stage_chains import BOUND, KNOWN_LATER, chain, statement
from trust_files import NOW

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.chain.expected_statement import ExpectedStatement, base_said, differs
from guardrail.evidence.digest import GENESIS, sha256
from guardrail.evidence.statements.stage_statement import Binding

GOOD = chain()
TRAIN = ExpectedStatement(
    "train", BOUND.model_copy(update=KNOWN_LATER["train"]), sha256(b"train"), sha256(GOOD["data"]), GENESIS
)


def said(envelope: bytes, now: datetime = NOW) -> str:
    return differs(envelope, TRAIN, now)


def test_a_statement_that_says_what_is_expected_differs_in_nothing() -> None:
    assert said(GOOD["train"]) == ""
    assert base_said(GOOD["train"]) == BOUND.base


def test_who_signed_is_asked_elsewhere() -> None:
    assert said(statement("train", TRAIN.after, ("ben",))) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": sha256(b"other")}, "names another record"),
        ({"after": sha256(b"other")}, "follows another statement"),
        ({"ledger": sha256(b"other")}, "names another entry of the ledger"),
        ({"not_before": NOW + timedelta(minutes=6)}, "holds only from"),
        ({"expires": NOW}, "expired at"),
    ],
)
def test_each_difference_has_its_words(change: dict[str, Any], words: str) -> None:
    assert said(statement("train", **{"after": TRAIN.after, **change})).startswith(words)


@pytest.mark.parametrize("name", Binding.model_fields)
def test_everything_that_is_bound_is_compared(name: str) -> None:
    other = TRAIN.bound.model_copy(update={name: "other"})
    expected = ExpectedStatement("train", other, TRAIN.record, TRAIN.after, GENESIS)
    assert differs(GOOD["train"], expected, NOW) == f"binds another {name}"


def test_a_statement_of_another_stage_or_none_at_all_is_told_apart() -> None:
    assert said(GOOD["evaluate"]) == "is of another stage"
    assert said(b"{}").startswith("cannot be read")
    with pytest.raises(EvidenceInvalid):
        base_said(b"")
