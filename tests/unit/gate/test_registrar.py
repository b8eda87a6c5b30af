"""What is asked again as an entry is written: somebody may have said no since the evidence was judged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gate_trust import person

from guardrail.errors import EvidenceInvalid, GuardrailError, PolicyDenied, ServiceUnavailable
from guardrail.evidence.digest import GENESIS, sha256
from guardrail.evidence.ledger.entries import EntryKind
from guardrail.evidence.statements.orders import Rollback
from guardrail.gate.admission import Admission
from guardrail.gate.app.routes import Routes
from guardrail.gate.ledger.journal import Journal, draft
from guardrail.gate.ledger_drafts import note_promotion, note_rollback

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EVIDENCE, ADAPTER, VOTE = sha256(b"evidence"), sha256(b"adapter"), sha256(b"vote")
NOBODY: Any = None


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    signer = person(tmp_path / "k", "server")
    return Journal(tmp_path / "ledger", tmp_path / "head", signer.private, [signer.public], lambda: NOW)


def _judged() -> Admission:
    """Evidence that was judged a moment ago."""
    decision = SimpleNamespace(model="m", alias="production", manifest=ADAPTER)
    return cast(
        Admission,
        SimpleNamespace(
            examined=SimpleNamespace(decision=decision, evidence_sha256=EVIDENCE),
            nonce="ab",
            chain=SimpleNamespace(one_person_may_train_evaluate_and_approve=False),
        ),
    )


def _admit(journal: Journal) -> None:
    journal.append(
        lambda _: draft("decision", model="m", alias="production", evidence=EVIDENCE, subject=ADAPTER, nonce="ab")
    )


def _order(journal: Journal) -> Rollback:
    head = journal.head()
    return Rollback(
        model="m",
        alias="production",
        from_version="2",
        to_version="1",
        manifest=ADAPTER,
        reason="it talks",
        ledger=head.digest if head else GENESIS,
        not_before=NOW,
        expires=NOW,
    )


@pytest.mark.parametrize(("kind", "error"), [("rejection", PolicyDenied), ("revocation", EvidenceInvalid)])
def test_a_no_that_comes_before_the_promotions_entry_prevents_it(
    journal: Journal, kind: EntryKind, error: type[GuardrailError]
) -> None:
    judged = _judged()
    _admit(journal)
    journal.append(lambda _: draft(kind, evidence=EVIDENCE, subject=ADAPTER, statement=VOTE))
    before, order = journal.head(), _order(journal)
    with pytest.raises(error):
        note_promotion(journal, judged, "1")
    with pytest.raises(error):
        note_rollback(journal, order, b"an order", ("ana",), EVIDENCE)
    assert journal.head() == before


def test_a_rollback_is_written_down_also_where_reason_and_names_are_long(journal: Journal) -> None:
    _admit(journal)
    order = _order(journal).model_copy(update={"reason": "x" * 3000})
    note_rollback(journal, order, b"an order", ("a" * 900, "b" * 900), EVIDENCE)
    stands = journal.state().stands[("m", "production")]
    assert (stands.version, stands.evidence, stands.manifest) == ("1", EVIDENCE, ADAPTER)


def test_one_look_at_everything_at_a_time() -> None:
    routes = Routes(NOBODY)
    with routes._looking, pytest.raises(ServiceUnavailable, match="looking"):
        routes.doctor()
