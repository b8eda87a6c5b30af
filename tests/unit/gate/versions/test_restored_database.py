"""A database that is older than the ledger, another one, or was written to by hand: nothing guarded moves or is handed
out by it, each difference has a name, and the honest ways on work."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_parts import Parts, parts
from sqlalchemy import text

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Rollback
from guardrail.gate.app.doctor import examine_all
from guardrail.gate.app.start_up import begin
from guardrail.gate.versions.reconcile import AGAIN, MOVE_AGAIN
from guardrail.registry.gate.protocol import RegistryProblem

pytestmark = pytest.mark.slow

MODEL, ALIAS = "guarded", "production"


@dataclass(frozen=True)
class Prepared:
    """A gate's folder with dumps of its database from before version 2 and from after it, and what was promoted."""

    folder: Path
    bundles: dict[int, Bundle]


@dataclass(frozen=True)
class Broken:
    """A gate that runs on a database which does not fit its ledger."""

    gate: Parts
    bundles: dict[int, Bundle]

    def promote(self, seed: int) -> str:
        bundle = self.bundles.get(seed) or self.gate.bundle(MODEL, seed)
        return self.gate.promote(bundle)

    def resolve(self) -> str:
        return str(self.gate.store.get_model_version_by_alias(MODEL, ALIAS).version)

    def moves(self) -> list[str]:
        """Version and evidence of where the ledger and the database say that the alias stands."""
        stands = self.gate.registrar.journal.state().stands[(MODEL, ALIAS)]
        points = self.gate.registrar.beneath.aliases(MODEL)[ALIAS]
        holds = self.gate.registrar.beneath.version(MODEL, points).tags["guardrail.evidence_sha256"]
        return [stands.version, stands.evidence, points, holds]

    def problems(self) -> list[RegistryProblem]:
        return list(examine_all(self.gate.registrar).problems)

    def sql(self, *statements: str, **given: object) -> None:
        with self.gate.store.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), given)

    def order(self, to: str, seed: int, start: str = "2") -> bytes:
        """A person orders the alias to a version that holds what was promoted as ``seed``."""
        now, head = datetime.now(UTC), self.gate.registrar.journal.end().digest
        order = Rollback(
            model=MODEL,
            alias=ALIAS,
            from_version=start,
            to_version=to,
            reason="it was restored",
            ledger=head,
            manifest=self.bundles[seed].decision.manifest,
            not_before=now - timedelta(minutes=1),
            expires=now + timedelta(days=1),
        )
        return sign(orders.build(order), self.gate.who.approvers[0].private)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder, bundles = tmp_path_factory.mktemp("restored"), {}
    with parts(folder) as made:
        made.store.create_registered_model(MODEL)
        for seed in (1, 2):
            bundles[seed] = made.bundle(MODEL, seed)
            assert made.promote(bundles[seed]) == str(seed)
            shutil.copy(folder / "mlflow.db", folder / f"dump-{seed}.db")
    return Prepared(folder, bundles)


def _running(prepared: Prepared, folder: Path, dump: str) -> Iterator[Broken]:
    shutil.copytree(prepared.folder, folder)
    shutil.copy(folder / dump, folder / "mlflow.db")
    with parts(folder) as made:
        yield Broken(made, dict(prepared.bundles))


@pytest.fixture
def older(prepared: Prepared, tmp_path: Path) -> Iterator[Broken]:
    """On the dump from before version 2."""
    yield from _running(prepared, tmp_path / "gate", "dump-1.db")


@pytest.fixture
def whole(prepared: Prepared, tmp_path: Path) -> Iterator[Broken]:
    """On the database as it was."""
    yield from _running(prepared, tmp_path / "gate", "dump-2.db")


def _evidence(broken: Broken, seed: int) -> str:
    return broken.bundles[seed].evidence_sha256


def test_an_older_dump_hands_nothing_out_and_every_difference_is_named(
    older: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="guardrail refuses: guarded@production points at version 1"):
        older.resolve()
    first, second = _evidence(older, 1), _evidence(older, 2)
    entry = older.gate.registrar.journal.state().stands[(MODEL, ALIAS)].entry
    lost = f"entry {entry} of the ledger moved an alias to it, evidence {second}; no version holds that"
    moved = f"the ledger moved it to version 2 (evidence {second}, entry {entry})"
    points = f"it points at version 1 (evidence {first}); {moved}"
    expected = [
        RegistryProblem(where="guarded/2", what=lost, finish=AGAIN),
        RegistryProblem(where="guarded@production", what=points, finish=MOVE_AGAIN),
    ]
    assert older.problems() == expected
    with caplog.at_level(logging.INFO, "guardrail.server"):
        begin(older.gate.registrar, "artifacts")
    told = [record.getMessage() for record in caplog.records if "differs" in record.getMessage()]
    assert [problem.what in line for problem, line in zip(expected, told, strict=True)] == [True, True]
    assert older.gate.registrar.beneath.aliases(MODEL) == {ALIAS: "1"}, "nothing moved at start-up"


def test_the_same_evidence_again_gets_a_number_of_its_own_and_the_ledger_says_so(older: Broken) -> None:
    second = _evidence(older, 2)
    assert older.promote(2) == "3"
    assert older.moves() == ["3", second, "3", second]
    assert (older.resolve(), older.problems()) == ("3", [])
    assert older.promote(2) == "3"


def test_later_evidence_never_gets_a_number_that_the_ledger_names_for_other_evidence(older: Broken) -> None:
    assert older.promote(3) == "3"
    assert older.resolve() == "3"
    assert older.moves()[0] == "3"
    (left,) = older.problems()
    assert (left.where, "no version holds that" in left.what) == ("guarded/2", True)


def test_evidence_that_the_alias_moved_on_from_does_not_come_back_by_itself(older: Broken) -> None:
    with pytest.raises(EvidenceInvalid, match="no step forward"):
        older.promote(1)
    older.promote(3)
    for seed in (1, 2):
        with pytest.raises(EvidenceInvalid, match="no step forward"):
            older.promote(seed)
    assert older.moves()[0] == "3"


def test_persons_may_order_that_the_restored_version_is_the_one(older: Broken) -> None:
    assert older.gate.submit(older.order("1", 1)).state == "rolled-back"
    assert older.moves() == ["1", _evidence(older, 1)] * 2
    assert older.resolve() == "1"
    assert [problem.where for problem in older.problems()] == ["guarded/2"]


def _deleted_and_made_again(whole: Broken) -> None:
    """While it was not in the trust file: the name was anybody's."""
    whole.gate.who.write(_trust(whole, 2, "other"))
    whole.gate.store.delete_registered_model(MODEL)
    whole.gate.store.create_registered_model(MODEL, description="mine")
    for number in range(3):
        whole.gate.store.create_model_version(MODEL, f"s3://mine/{number}")
    whole.gate.store.set_registered_model_alias(MODEL, ALIAS, "3")
    whole.gate.who.write(_trust(whole, 3, MODEL))


def _trust(broken: Broken, version: int, name: str) -> bytes:
    from gate_trust import guarded_model, signed, trust

    who = broken.gate.who
    value = trust(
        who.root, who.decider, [guarded_model(name)], version=version, approvers=who.approvers, server=who.server
    )
    return signed(value, who.root)


def test_a_model_that_left_the_trust_file_was_deleted_and_came_back_goes_on_where_the_ledger_is(whole: Broken) -> None:
    from mlflow.exceptions import MlflowException

    _deleted_and_made_again(whole)
    with pytest.raises(MlflowException, match="the ledger never admitted"):
        whole.resolve()
    where = [problem.where for problem in whole.problems()]
    assert where[:3] == ["guarded/1", "guarded/2", "guarded/3"]
    assert {"guarded@production"} < set(where)
    with pytest.raises(EvidenceInvalid, match="no step forward"):
        whole.promote(1)
    assert whole.promote(2) == "5", "the refused one has number 4"
    assert whole.moves() == ["5", _evidence(whole, 2)] * 2
    assert whole.resolve() == "5"


def _source_of(broken: Broken, version: str) -> str:
    return str(broken.gate.registrar.beneath.version(MODEL, version).source)


HANDS: dict[str, tuple[str, ...]] = {
    "alias row back": ("UPDATE registered_model_aliases SET version = 1",),
    "alias row to a version that is not there": ("UPDATE registered_model_aliases SET version = 9",),
    "source of the version": (
        "UPDATE model_versions SET source = (SELECT source FROM model_versions WHERE version = 1) WHERE version = 2",
    ),
    "source to a bucket": ("UPDATE model_versions SET source = 's3://evil' WHERE version = 2",),
    "evidence tag": (
        "UPDATE model_version_tags SET value = 'ab' WHERE version = 2 AND \"key\" = 'guardrail.evidence_sha256'",
    ),
    "adapter tag": (
        "UPDATE model_version_tags SET value = 'ab' WHERE version = 2 AND \"key\" = 'guardrail.adapter_sha256'",
    ),
    "tags deleted": ("DELETE FROM model_version_tags WHERE version = 2",),
    "numbers swapped": (
        "UPDATE model_versions SET version = 7 WHERE version = 1",
        "UPDATE model_version_tags SET version = 7 WHERE version = 1",
        "UPDATE model_versions SET version = 1 WHERE version = 2",
        "UPDATE model_version_tags SET version = 1 WHERE version = 2",
        "UPDATE registered_model_aliases SET version = 1",
    ),
    "version's row": (
        "DELETE FROM model_version_tags WHERE version = 2",
        "DELETE FROM model_versions WHERE version = 2",
    ),
}


@pytest.mark.parametrize("how", list(HANDS))
def test_what_a_hand_wrote_is_named_not_handed_out_and_mended_by_promoting_again(whole: Broken, how: str) -> None:
    from mlflow.exceptions import MlflowException

    assert (whole.resolve(), whole.problems()) == ("2", [])
    whole.sql(*HANDS[how])
    with pytest.raises(MlflowException):
        whole.resolve()
    assert whole.problems() != []
    version = whole.promote(2)
    assert whole.moves() == [version, _evidence(whole, 2)] * 2
    assert whole.resolve() == version
    left = [problem for problem in whole.problems() if problem.where == "guarded@production"]
    assert left == []


@pytest.mark.parametrize(
    "tables",
    [
        ("registered_model_aliases",),
        ("registered_model_aliases", "model_version_tags", "model_versions"),
        ("registered_model_aliases", "model_version_tags", "model_versions", "registered_models"),
    ],
)
def test_rows_that_are_gone_are_named_and_promoting_again_brings_them_back(
    whole: Broken, tables: tuple[str, ...]
) -> None:
    from mlflow.exceptions import MlflowException

    for table in tables:
        whole.sql(f"DELETE FROM {table}")  # noqa: S608
    with pytest.raises(MlflowException):
        whole.resolve()
    assert "guarded@production" in [problem.where for problem in whole.problems()]
    if "registered_models" in tables:
        whole.gate.store.create_registered_model(MODEL)
    version = whole.promote(2)
    assert version == ("2" if len(tables) == 1 else "3")
    assert whole.moves() == [version, _evidence(whole, 2)] * 2
    with pytest.raises(EvidenceInvalid, match="no step forward"):
        whole.promote(1)


def test_a_rollback_that_was_carried_out_is_not_repeated_onto_other_evidence_under_its_number(whole: Broken) -> None:
    order = whole.order("1", 1)
    whole.gate.submit(order)
    assert whole.resolve() == "1"
    whole.sql("UPDATE model_versions SET source = :s WHERE version = 1", s=_source_of(whole, "2"))
    whole.sql("UPDATE registered_model_aliases SET version = 2")
    with pytest.raises(EvidenceInvalid, match="not what the ledger says"):
        whole.gate.submit(order)
    assert whole.gate.registrar.beneath.aliases(MODEL) == {ALIAS: "2"}


def test_an_order_to_a_number_that_holds_other_evidence_than_the_ledger_named_is_refused(whole: Broken) -> None:
    whole.gate.submit(whole.order("1", 1))
    whole.sql("UPDATE model_versions SET source = :s WHERE version = 2", s=_source_of(whole, "1"))
    with pytest.raises(EvidenceInvalid, match="moved an alias to that number"):
        whole.gate.submit(whole.order("2", 1, start="1"))


def test_an_order_that_names_where_the_database_stands_instead_of_the_ledger_is_refused(older: Broken) -> None:
    with pytest.raises(EvidenceInvalid, match="points at version 2, by the ledger"):
        older.gate.submit(older.order("2", 2, start="1"))


def test_a_move_that_a_crash_cut_off_is_finished_at_the_next_start(
    whole: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Crash(Exception):
        """As if the server had been killed."""

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(whole.gate.registrar.beneath, "set_alias", crash)
        with pytest.raises(Crash):
            whole.promote(3)
    begin(whole.gate.registrar, "artifacts")
    assert (whole.resolve(), whole.problems()) == ("3", [])
    assert "finished the move to version 3" in caplog.text


def test_a_move_that_is_going_on_is_waited_for(whole: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the entry and the alias both are right; whoever resolves then gets the new version."""
    beneath, seen = whole.gate.registrar.beneath, list[str]()
    move = beneath.set_alias

    @contextmanager
    def done_meanwhile(name: str, alias: str, version: str) -> Iterator[None]:
        """The turn comes once the move is done."""
        move(name, alias, version)
        yield

    def watched(name: str, alias: str, version: str) -> None:
        decisions = whole.gate.registrar.sealing().queues.decisions
        monkeypatch.setattr(decisions, "turn", lambda: done_meanwhile(name, alias, version))
        seen.append(whole.resolve())

    monkeypatch.setattr(beneath, "set_alias", watched)
    assert (whole.promote(3), seen) == ("3", ["3"])
