"""The trust file as it changes: what counts now, and what still guards when it is broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_trust import Person, guarded_model, person, signed, trust
from sqlalchemy import create_engine

from guardrail.errors import EvidenceInvalid
from guardrail.registry.server.floor import DatabaseFloor
from guardrail.registry.server.settings import Settings
from guardrail.registry.server.watch import TrustWatch

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Desk:
    """A trust file, its signers and a clock."""

    file: Path
    root: Person
    decider: Person
    floor: DatabaseFloor
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
        settings = Settings(self.file, (self.root.public,), 1, "unused", None, unused, unused)
        return TrustWatch(settings, self.floor, lambda: self.now)


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
        desk.floor.raise_to(version)
    assert desk.floor.get() == 5


def test_another_file_of_the_same_version_is_refused_and_the_first_still_guards(desk: Desk) -> None:
    watch = desk.watch()
    desk.write(1, "other")
    with pytest.raises(EvidenceInvalid, match="another trust file of version 1"):
        watch.current()
    assert watch.names().guarded("first") is not None
    desk.write(2, "other")
    assert watch.current().guarded("first") is None
