"""The trust file as it changes: what counts now, and what still guards when it is broken."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_trust import Person, guarded_model, person, signed, trust
from sqlalchemy import create_engine, text

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest, sha256
from guardrail.gate.ledger.journal import Journal, draft
from guardrail.gate.settings import GateSettings
from guardrail.gate.trust.trust_version_floor import DatabaseFloor, Floors
from guardrail.gate.trust.trust_watch import TrustWatch

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Desk:
    """A trust file, its signers and a clock."""

    file: Path
    root: Person
    decider: Person
    database: DatabaseFloor
    now: datetime = NOW
    written: list[bytes] = field(default_factory=list)

    def write(self, version: int, *names: str, days: float = 30) -> None:
        """Replace the file."""
        value = trust(self.root, self.decider, [guarded_model(n) for n in names], version=version, now=NOW, days=days)
        self.put(signed(value, self.root))

    def put(self, content: bytes) -> None:
        """Replace the file by anything."""
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(self.file)

    def watch(self) -> TrustWatch:
        """A worker."""
        unused = Path("unused")
        settings = GateSettings(self.file, (self.root.public,), 1, "unused", None, unused, unused)
        journal = self.journal()
        return TrustWatch(settings, Floors(journal, self.database), lambda: self.now)

    def journal(self) -> Journal:
        """The ledger, as a worker opens it."""
        place, signer = self.file.parent, self.decider
        return Journal(place / "ledger", place / "head", signer.private, [signer.public], lambda: self.now)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    floor = DatabaseFloor(create_engine(f"sqlite:///{tmp_path / 'a.db'}"))
    made = Desk(tmp_path / "trust", person(tmp_path / "k", "root"), person(tmp_path / "k", "decider"), floor)
    made.write(1, "first")
    return made


def test_a_new_version_counts_at_once(desk: Desk) -> None:
    watch = desk.watch()
    desk.write(2, "first", "second")
    assert watch.current().guarded("SECOND") is not None


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_broken_file_admits_nothing_and_still_guards(desk: Desk, content: bytes) -> None:
    watch = desk.watch()
    desk.put(content)
    with pytest.raises(EvidenceInvalid):
        watch.current()
    assert watch.names().guarded("first") is not None
    desk.write(1, "first")
    assert watch.current().version == 1


def test_a_file_that_is_gone_admits_nothing_and_still_guards(desk: Desk) -> None:
    watch = desk.watch()
    desk.file.unlink()
    with pytest.raises(EvidenceInvalid, match="cannot be read"):
        watch.current()
    assert watch.names().guarded("first") is not None


def test_an_expired_file_admits_nothing_though_it_did_not_change(desk: Desk) -> None:
    watch = desk.watch()
    assert watch.current().version == 1
    desk.now = NOW + timedelta(days=31)
    with pytest.raises(EvidenceInvalid, match=r"valid from|expired"):
        watch.current()
    assert watch.names().guarded("first") is not None


def test_an_older_version_is_refused_by_every_worker_and_after_a_restart(desk: Desk) -> None:
    one, other = desk.watch(), desk.watch()
    old = desk.file.read_bytes()
    desk.write(2, "first", "second")
    assert one.current().version == 2
    desk.put(old)
    for refuse in (one.current, other.current, desk.watch):
        with pytest.raises(EvidenceInvalid, match="version"):
            refuse()
    assert one.names().guarded("second") is not None


def test_there_is_no_worker_without_a_valid_file(desk: Desk) -> None:
    desk.put(b"garbage")
    with pytest.raises(EvidenceInvalid):
        desk.watch()


def test_the_floor_only_rises(desk: Desk) -> None:
    for version in (3, 2, 5, 4):
        desk.database.raise_to(version)
    assert desk.database.get() == 5


def test_another_file_of_the_same_version_is_refused_and_the_first_still_guards(desk: Desk) -> None:
    watch = desk.watch()
    desk.write(1, "other")
    with pytest.raises(EvidenceInvalid, match="another trust file of version 1"):
        watch.current()
    assert watch.names().guarded("first") is not None
    desk.write(2, "other")
    assert watch.current().guarded("first") is None


def _forget(desk: Desk, how: str) -> None:
    """What an operator may do to the database, knowingly or not."""
    if how == "another database":
        desk.database = DatabaseFloor(create_engine(f"sqlite:///{desk.file.parent / 'b.db'}"))
        return
    statements = {
        "row deleted": "DELETE FROM guardrail_state",
        "row lowered": "UPDATE guardrail_state SET value = 1",
        "row zero": "UPDATE guardrail_state SET value = 0",
        "row negative": "UPDATE guardrail_state SET value = -7",
        "restored": "UPDATE guardrail_state SET value = 1 WHERE name = 'trust_version'",
        "table emptied and renamed": "UPDATE guardrail_state SET name = 'other'",
    }
    with desk.database._engine.begin() as connection:
        connection.execute(text(statements[how]))


FORGOTTEN = [
    "another database",
    "row deleted",
    "row lowered",
    "row zero",
    "row negative",
    "restored",
    "table emptied and renamed",
]


@pytest.mark.parametrize("how", FORGOTTEN)
def test_an_older_trust_file_is_refused_whatever_becomes_of_the_database(desk: Desk, how: str) -> None:
    watch, old = desk.watch(), desk.file.read_bytes()
    desk.write(2, "first", "second")
    assert watch.current().version == 2
    _forget(desk, how)
    desk.put(old)
    for refuse in (watch.current, desk.watch):
        with pytest.raises(EvidenceInvalid, match="version 2 or later"):
            refuse()
    assert watch.names().guarded("second") is not None


@pytest.mark.parametrize("how", FORGOTTEN)
def test_a_worker_that_never_saw_the_later_file_guards_what_it_names(desk: Desk, how: str) -> None:
    """It was there between two requests, and only another worker read it."""
    stale, other, old = desk.watch(), desk.watch(), desk.file.with_suffix(".old")
    os.link(desk.file, old)
    desk.write(2, "first", "second")
    assert other.current().version == 2
    _forget(desk, how)
    old.replace(desk.file)  # the same file again, to the last bit of its stamp
    assert stale.names().guarded("second") is not None
    with pytest.raises(EvidenceInvalid):
        stale.current()


def test_what_a_later_file_no_longer_names_is_free_for_every_worker(desk: Desk) -> None:
    stale, other = desk.watch(), desk.watch()
    desk.write(2, "second")
    assert other.current().version == 2
    assert stale.names().guarded("first") is None


@pytest.mark.parametrize("how", ["gone", "changed", "never kept"])
def test_a_worker_that_cannot_know_what_the_later_file_guards_takes_no_name_for_free(desk: Desk, how: str) -> None:
    stale, old = desk.watch(), desk.file.read_bytes()
    desk.write(2, "first", "second")
    (kept,) = (desk.file.parent / "ledger.statements").iterdir()
    if how == "never kept":  # by an older release
        desk.journal().append(lambda _: draft("trust", version="2", subject="ab" * 32))
    else:
        desk.watch()
        (kept,) = set((desk.file.parent / "ledger.statements").iterdir()) - {kept}
        kept.unlink() if how == "gone" else kept.write_bytes(b"{}")
    desk.put(old)
    with pytest.raises(EvidenceInvalid, match="does not know what it guards"):
        stale.names()


def test_the_ledger_keeps_the_file_once_also_where_an_older_release_did_not(desk: Desk) -> None:
    value = trust(desk.root, desk.decider, [guarded_model("first")], version=5, now=NOW)
    desk.journal().append(lambda _: draft("trust", version="5", subject=digest(value)))
    desk.put(signed(value, desk.root))
    for _ in range(2):
        desk.watch()
    state = desk.journal().state()
    assert (len(state.numbers), state.trust_statement) == (2, sha256(desk.file.read_bytes()))


def test_a_database_that_knows_a_later_version_than_the_ledger_counts_too(desk: Desk) -> None:
    """The ledger and its head were put back from a backup."""
    desk.database.raise_to(7)
    with pytest.raises(EvidenceInvalid, match="version 7 or later"):
        desk.watch()
