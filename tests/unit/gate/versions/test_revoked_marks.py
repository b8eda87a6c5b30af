"""A revoked version says so in stock MLflow: in its verdict, its description and a tag, also after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_parts import Parts, parts

from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation
from guardrail.gate.app.doctor import examine_all
from guardrail.gate.app.start_up import begin
from guardrail.gate.versions import revoked_marks
from guardrail.gate.versions.reconcile import MARK_AGAIN
from guardrail.registry.mlflow.tags import REVOKED, VERDICT

pytestmark = pytest.mark.slow

MODEL = "guarded"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Parts]:
    """Two versions, of different adapters."""
    with parts(tmp_path) as made:
        made.store.create_registered_model(MODEL)
        for seed in (1, 2):
            made.promote(made.bundle(MODEL, seed))
        yield made


def _revocation(gate: Parts, version: str, reason: str = "it leaks") -> bytes:
    now, manifest = datetime.now(UTC), _stored(gate, version).tags["guardrail.adapter_sha256"]
    out = Revocation(
        manifest=manifest, reason=reason, not_before=now - timedelta(minutes=1), expires=now + timedelta(days=1)
    )
    return sign(orders.build(out), gate.who.approvers[0].private)


def _stored(gate: Parts, version: str) -> Any:
    """As MLflow's own store gives it to anybody."""
    return gate.store.get_model_version(MODEL, version)


def _says_revoked(gate: Parts, version: str) -> bool:
    found = _stored(gate, version)
    tag, verdict = found.tags.get(REVOKED, ""), found.tags[VERDICT]
    said = "it leaks" in tag and "REVOKED" in (found.description or "") and "it leaks" in found.description
    assert said is (verdict == "REVOKED") is bool(tag)
    return said


def test_a_revoked_version_says_when_and_why_and_the_others_say_nothing(gate: Parts) -> None:
    gate.submit(_revocation(gate, "1"))
    assert [_says_revoked(gate, version) for version in ("1", "2")] == [True, False]
    since = gate.registrar.journal.state().revoked_at[_stored(gate, "1").tags["guardrail.adapter_sha256"]]
    assert _stored(gate, "1").tags[REVOKED].startswith(since.isoformat(timespec="seconds"))
    assert examine_all(gate.registrar).problems == ()


@pytest.mark.parametrize("mended", ["handed in again", "another order", "started again"])
def test_marks_that_a_crash_left_out_are_named_and_written_by_asking_or_starting_again(
    gate: Parts, monkeypatch: pytest.MonkeyPatch, mended: str
) -> None:
    class Crash(Exception):
        """As if the server had been killed."""

    def crash(*_: object) -> None:
        raise Crash

    order = _revocation(gate, "2")
    with monkeypatch.context() as patch:
        patch.setattr(gate.registrar.beneath, "mark", crash)
        with pytest.raises(Crash):
            gate.submit(order)
    assert not _says_revoked(gate, "2")
    (found,) = examine_all(gate.registrar).problems
    assert (found.where, found.finish) == ("guarded/2", MARK_AGAIN)
    if mended == "started again":
        begin(gate.registrar, "artifacts")
    else:
        gate.submit(order if mended == "handed in again" else _revocation(gate, "2", "it leaks more"))
    assert _says_revoked(gate, "2")
    assert examine_all(gate.registrar).problems == ()


def test_marks_half_written_by_a_crash_are_written_to_their_end(gate: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(Exception):
        """As if the server had been killed."""

    def crash(*_: object) -> None:
        raise Crash

    order = _revocation(gate, "1")
    with monkeypatch.context() as patch:
        patch.setattr("guardrail.gate.versions.mlflow_tables.SqlAlchemyStore.update_model_version", crash)
        with pytest.raises(Crash):
            gate.submit(order)
    assert _stored(gate, "1").tags[VERDICT] == "REVOKED"
    assert len(examine_all(gate.registrar).problems) == 1
    begin(gate.registrar, "artifacts")
    assert _says_revoked(gate, "1")


@pytest.mark.parametrize("what", ["tag", "verdict", "description"])
def test_marks_that_a_hand_took_away_are_named_and_come_back_at_the_next_start(gate: Parts, what: str) -> None:
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    gate.submit(_revocation(gate, "1"))
    if what == "tag":
        SqlAlchemyStore.delete_model_version_tag(gate.store, MODEL, "1", REVOKED)
    elif what == "verdict":
        SqlAlchemyStore.set_model_version_tag(gate.store, MODEL, "1", ModelVersionTag(VERDICT, "PASSED"))
    else:
        SqlAlchemyStore.update_model_version(gate.store, MODEL, "1", "gate: PASSED")
    assert "guarded/1" in [problem.where for problem in examine_all(gate.registrar).problems]
    begin(gate.registrar, "artifacts")
    assert _says_revoked(gate, "1")
    assert examine_all(gate.registrar).problems == ()


def test_a_version_that_says_revoked_and_is_not_is_named(gate: Parts) -> None:
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore.set_model_version_tag(gate.store, MODEL, "2", ModelVersionTag(REVOKED, "yesterday"))
    (found,) = examine_all(gate.registrar).problems
    assert "the ledger does not" in found.what
    gate.registrar.move_alias(gate.registrar.guarded_model(MODEL), "production", "2")
    assert REVOKED not in _stored(gate, "2").tags


def test_long_reasons_fit_into_what_mlflow_stores(gate: Parts) -> None:
    gate.submit(_revocation(gate, "1", "it leaks " + "x" * 2980))
    assert _says_revoked(gate, "1")


def test_nothing_is_marked_where_nothing_was_revoked(gate: Parts) -> None:
    state = gate.registrar.journal.state()
    assert revoked_marks.mark_all(gate.registrar.beneath, state, gate.registrar.watch.names().models) == 0
