"""Evidence ends with the first of all that its decision rests on, and everybody says and enforces the same end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from gate_chains import vote
from gate_parts import Parts, parts
from gate_trust import guarded_model, signed, trust
from gate_world import say, world

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import SIGNED, seal
from guardrail.evidence.expiry import expired
from guardrail.evidence.statements.earliest_expiry import earliest
from guardrail.evidence.trust.trust_file import ProtectedAlias

pytestmark = pytest.mark.slow

MODEL, ALIAS = "guarded", "production"
EDGE = timedelta(microseconds=1)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Parts]:
    with parts(tmp_path) as made:
        made.store.create_registered_model(MODEL)
        yield made


def _at(gate: Parts, monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    """The server's clock."""
    monkeypatch.setattr(gate.registrar.watch, "_clock", lambda: now)


def _resolve(gate: Parts) -> str:
    return str(gate.store.get_model_version_by_alias(MODEL, ALIAS).version)


@pytest.mark.parametrize("zone", [0, 14, -12, 5.5])
@pytest.mark.parametrize("passed", [False, True])
def test_what_expires_at_a_time_is_not_valid_at_that_time_in_whatever_zone(zone: float, passed: bool) -> None:
    end = datetime(2026, 3, 1, tzinfo=UTC)
    now = (end if passed else end - EDGE).astimezone(timezone(timedelta(hours=zone)))
    assert expired(end, now) is passed


@pytest.mark.parametrize("stage", SIGNED)
def test_an_alias_is_not_handed_out_once_the_first_statement_expired(
    gate: Parts, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from mlflow.exceptions import MlflowException

    end = datetime.now(UTC) + timedelta(days=3)
    bundle = gate.bundle(MODEL, 1, ends={stage: end})
    assert bundle.decision.valid_until == end
    gate.promote(bundle)
    assert gate.registrar.beneath.version(MODEL, "1").tags["guardrail.valid_until"] == end.isoformat()
    _at(gate, monkeypatch, end - EDGE)
    assert _resolve(gate) == "1"
    _at(gate, monkeypatch, end)
    with pytest.raises(MlflowException, match="expired at"):
        _resolve(gate)
    with pytest.raises(EvidenceInvalid, match="expired"):
        gate.promote(bundle)


@pytest.mark.parametrize("stage", SIGNED)
def test_a_decision_that_outlasts_a_statement_is_not_admitted(gate: Parts, stage: str) -> None:
    bundle = gate.bundle(MODEL, 1, ends={stage: datetime.now(UTC) + timedelta(days=3)}, bounded=False)
    with pytest.raises(EvidenceInvalid, match="the decision is valid until"):
        gate.promote(bundle)
    assert gate.registrar.beneath.versions(MODEL) == []


@pytest.mark.parametrize("stage", SIGNED)
def test_what_an_earlier_release_admitted_ends_with_its_first_statement_all_the_same(
    gate: Parts, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    from mlflow.exceptions import MlflowException

    end = datetime.now(UTC) + timedelta(days=3)
    bundle = gate.bundle(MODEL, 1, ends={stage: end}, bounded=False)
    with monkeypatch.context() as patch:
        patch.setattr("guardrail.gate.registrar.require_bounded", lambda _: None)
        gate.promote(bundle)
    assert (_resolve(gate), gate.promote(bundle)) == ("1", "1")
    _at(gate, monkeypatch, end)
    with pytest.raises(MlflowException, match=f"expired at {end}".replace("+", r"\+")):
        _resolve(gate)


def test_the_end_is_read_from_the_sealed_evidence_and_not_from_tags(
    gate: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.exceptions import MlflowException
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    end = datetime.now(UTC) + timedelta(days=3)
    gate.promote(gate.bundle(MODEL, 1, ends={"train": end}))
    later = ModelVersionTag("guardrail.valid_until", (end + timedelta(days=900)).isoformat())
    SqlAlchemyStore.set_model_version_tag(gate.store, MODEL, "1", later)
    _at(gate, monkeypatch, end)
    with pytest.raises(MlflowException, match="expired at"):
        _resolve(gate)


@pytest.mark.parametrize("name", ["decision.dsse.json", "train.dsse.json"])
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_an_alias_whose_sealed_evidence_was_touched_is_not_handed_out(gate: Parts, name: str, how: str) -> None:
    from mlflow.exceptions import MlflowException

    gate.promote(gate.bundle(MODEL, 1))
    (path,) = (gate.folder / "sealed").glob(f"*/evidence/{name}")
    path.parent.chmod(0o755)
    content = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(content.replace(b"2", b"3", 1))
    with pytest.raises(MlflowException, match="guardrail refuses"):
        _resolve(gate)


def _warn(gate: Parts) -> None:
    """The trust file only warns of what expired or was revoked."""
    usual = guarded_model(MODEL)
    alias: ProtectedAlias = usual.aliases[0].model_copy(update={"when_invalid": "warn"})
    value = trust(
        gate.who.root,
        gate.who.decider,
        [usual.model_copy(update={"aliases": (alias,)})],
        version=2,
        approvers=gate.who.approvers,
        server=gate.who.server,
    )
    gate.who.write(signed(value, gate.who.root))


def test_where_the_trust_file_only_warns_what_expired_is_handed_out_but_nothing_the_ledger_does_not_know(
    gate: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    end = datetime.now(UTC) + timedelta(days=3)
    for seed in (1, 2):
        gate.promote(gate.bundle(MODEL, seed, ends={"data": end}))
    _warn(gate)
    _at(gate, monkeypatch, end)
    assert _resolve(gate) == "2"
    assert "expired at" in caplog.text
    gate.registrar.beneath.set_alias(MODEL, ALIAS, "1")
    with pytest.raises(MlflowException, match="points at version 1"):
        _resolve(gate)


def test_an_approval_that_ends_before_the_evaluation_is_refused_and_the_end_is_the_first_statements(
    tmp_path: Path,
) -> None:
    with parts(tmp_path) as gate:
        gate.store.create_registered_model("waiting")
        end = datetime.now(UTC) + timedelta(days=3)
        bundle = gate.bundle("waiting", 1, ends={"evaluate": end})
        assert gate.propose(bundle) == ""
        first, second = gate.who.approvers
        with pytest.raises(EvidenceInvalid, match="the approval expires"):
            gate.submit(vote(bundle, first.private, expires=end - EDGE))
        for person in (first, second):
            gate.submit(vote(bundle, person.private))
        found = gate.registrar.journal.state().admitted[bundle.evidence_sha256]
        assert gate.registrar.terms(found).until == end == earliest(end + EDGE, bundle.stages.values())


@pytest.mark.parametrize("spec", ["guarded@production", "guarded/1"])
def test_verify_pull_and_list_say_the_same_end_and_refuse_after_it(tmp_path: Path, spec: str) -> None:
    """Made before: its training's statement has expired, its decision not."""
    with world(tmp_path) as made:
        end = datetime.now(UTC) - timedelta(seconds=1)
        made.gate.admit(_made(made, end))
        for how in (made.by_trust, ("--key", made.who["decider"].public_file)):
            for command in (("verify", spec), ("pull", spec, "--to", tmp_path / "pulled")):
                said = say(*command, *how, *made.server)
                assert (said.code, "expired" in said.out) == (11, True), said.out


def _made(made: Any, end: datetime) -> Any:
    from gate_chains import proven

    folder = made.folder / "adapter"
    return proven(
        folder,
        made.gate,
        made.who.signers(),
        now=datetime.now(UTC) - timedelta(days=1),
        ends={"train": end},
        bounded=False,
    )


def test_no_decision_of_another_length_can_be_signed(gate: Parts) -> None:
    """Shorter or longer than what policy and statements give: it is not what is decided again."""
    bundle = gate.bundle(MODEL, 1)
    for days in (-1, 1):
        until = bundle.decision.valid_until + timedelta(days=days)
        other = replace(bundle, decision=bundle.decision.model_copy(update={"valid_until": until}), envelope=b"")
        with pytest.raises(EvidenceInvalid, match="differs from the signed one"):
            gate.promote(seal(other, gate.who.decider.private))
