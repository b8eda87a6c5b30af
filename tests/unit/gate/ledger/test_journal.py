"""The server's ledger as several workers see it, and what starts nothing."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_trust import Person, guarded_model, person, trust

from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import digest, sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger.checkpoint import EVERY
from guardrail.evidence.ledger.entries import Head
from guardrail.evidence.ledger.ledger_file import LedgerFile, envelopes, read_head
from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE, next_entry
from guardrail.gate.ledger.journal import Draft, Journal, Unneeded, draft
from guardrail.gate.ledger.ledger_state import LedgerState

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Place:
    """Where a ledger lies, its signer and its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.signer = folder, person(folder / "k", "server")
        self.path, self.head = folder / "ledger", folder / "head"
        self.now = NOW

    def worker(self, signer: Person | None = None, every: int = EVERY) -> Journal:
        by = signer or self.signer
        return Journal(self.path, self.head, by.private, [self.signer.public], lambda: self.now, every)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def ticket(nonce: str) -> Draft:
    return draft("proposal", model="m", alias="a", nonce=nonce)


def test_each_worker_sees_what_the_others_wrote(place: Place) -> None:
    one, two = place.worker(), place.worker()
    one.append(lambda _: ticket("1"))
    two.append(lambda _: ticket("2"))
    assert set(one.state().tickets) == set(two.state().tickets) == {"1", "2"}
    assert one.head() == two.head() == place.worker().head()


def test_a_decision_is_made_on_what_is_recorded_at_that_moment(place: Place) -> None:
    one, two = place.worker(), place.worker()
    one.append(lambda _: ticket("1"))

    def once(state: LedgerState) -> Draft:
        if "1" in state.tickets:
            raise Unneeded
        return ticket("1")

    before = two.head()
    assert two.append(once) == before


def test_what_decides_raises_and_nothing_is_written(place: Place) -> None:
    journal = place.worker()

    def refuse(_: LedgerState) -> Draft:
        raise EvidenceInvalid("no")

    with pytest.raises(EvidenceInvalid, match="no"):
        journal.append(refuse)
    assert journal.head() is None


@pytest.mark.parametrize("how", ["cut", "edited", "head gone", "ledger gone", "foreign"])
def test_a_ledger_that_was_touched_starts_nothing(place: Place, tmp_path: Path, how: str) -> None:
    journal = place.worker()
    for number in range(3):
        journal.append(lambda _, n=number: ticket(str(n)))  # type: ignore[misc]
    lines = place.path.read_bytes().splitlines(keepends=True)
    if how == "cut":
        place.path.write_bytes(b"".join(lines[:-1]))
    elif how == "edited":
        place.path.write_bytes(lines[0] + lines[2])
    elif how == "head gone":
        place.head.unlink()
    elif how == "ledger gone":
        place.path.unlink()
    else:
        place.signer = person(tmp_path / "other", "server")
    with pytest.raises(EvidenceInvalid):
        place.worker()


def test_a_ledger_that_is_touched_while_it_runs_stops_the_worker(place: Place) -> None:
    journal, other = place.worker(), place.worker()
    journal.append(lambda _: ticket("1"))
    place.path.write_bytes(place.path.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(EvidenceInvalid):
        other.state()
    with pytest.raises(EvidenceInvalid):
        journal.append(lambda _: ticket("2"))


def test_a_clock_that_jumps_back_writes_nothing(place: Place) -> None:
    journal = place.worker()
    journal.append(lambda _: ticket("1"))
    place.now -= timedelta(hours=1)
    with pytest.raises(EvidenceInvalid, match="before an earlier entry"):
        journal.append(lambda _: ticket("2"))
    place.now += timedelta(hours=2)
    journal.append(lambda _: ticket("2"))


def test_after_a_clock_that_was_ahead_a_refusal_says_until_when_to_wait_and_a_restart_does_not_help(
    place: Place,
) -> None:
    journal, right = place.worker(), place.now
    place.now = right + timedelta(hours=1)
    journal.append(lambda _: ticket("1"))
    place.now = right
    until = right + timedelta(minutes=59)
    for worker in (journal, place.worker()):
        with pytest.raises(EvidenceInvalid, match=re.escape(f"wait until {until}")):
            worker.append(lambda _: ticket("2"))
        assert worker.state().tickets.keys() == {"1"}
    place.now = until
    journal.append(lambda _: ticket("2"))


def test_statements_are_kept_by_their_digests_and_nothing_else_is_read(place: Place) -> None:
    journal = place.worker()
    journal.append(lambda _: draft("approval", said=b"said"))
    digest = sha256(b"said")
    assert journal.statement(digest) == b"said"
    for name in ("../ledger", "", "x" * 64, sha256(b"unsaid")):
        with pytest.raises(InvalidInput):
            journal.statement(name)
    (place.folder / "ledger.statements" / f"{digest}.dsse.json").write_bytes(b"changed")
    with pytest.raises(EvidenceInvalid, match="was changed"):
        journal.statement(digest)


def test_pages_go_on_where_the_last_one_ended(place: Place) -> None:
    journal = place.worker()
    assert journal.page(0, 2) == []
    for number in range(5):
        journal.append(lambda _, n=number: ticket(str(n)))  # type: ignore[misc]
    pages = [journal.page(after, 2) for after in (0, 2, 4, 5)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert len({line for page in pages for line in page}) == 5


def test_a_page_after_the_last_entry_is_empty_without_reading_the_ledger(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = place.worker()
    assert worker.page(0, 9) == []
    worker.append(lambda _: ticket("1"))
    assert len(worker.page(0, 9)) == 1
    monkeypatch.setattr(worker, "_catch_up", lambda: None)  # which looks at what was appended
    monkeypatch.setattr("guardrail.gate.ledger.journal.Path.open", lambda *_: pytest.fail("it was read"))
    assert worker.page(1, 9) == worker.page(10**15 - 1, 9) == []


def test_nothing_is_known_before_its_head_is_exported_however_often_one_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = place.worker()
    journal.append(lambda _: ticket("1"))

    def full(path: Path, data: bytes) -> None:
        if path == place.head:
            raise ServiceUnavailable("no space left on the head's disk")
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("guardrail.evidence.ledger.ledger_file.write_atomically", full)
        with pytest.raises(ServiceUnavailable):
            journal.append(lambda _: draft("promotion", model="m", alias="a", version="7"))
        for _ in range(3):
            for ask in (journal.state, journal.head, lambda: journal.append(lambda _: ticket("2"))):
                with pytest.raises(ServiceUnavailable):
                    ask()
    assert journal.state().stands[("m", "a")].version == "7"
    assert read_head(place.head) == journal.head()


def test_a_worker_starts_while_another_appends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the ledger and reading its head nobody appends, or the two would not fit."""
    first, appended = place.worker(), threading.Event()
    first.append(lambda _: ticket("1"))

    def append() -> None:
        first.append(lambda _: ticket("2"))
        appended.set()

    other = threading.Thread(target=append)

    def slow(path: Path) -> Head:
        if other.ident is None:
            other.start()
            assert not appended.wait(0.2)
        return read_head(path)

    monkeypatch.setattr("guardrail.gate.ledger.journal.read_head", slow)
    started = place.worker()
    other.join()
    assert set(started.state().tickets) == {"1", "2"}


def trust_entry(version: int, digest: str) -> Draft:
    return draft("trust", version=str(version), subject=digest)


def test_another_trust_file_of_the_version_that_was_in_force_is_refused(place: Place) -> None:
    one = trust(place.signer, place.signer, [guarded_model("a")], version=3, now=NOW)
    other = trust(place.signer, place.signer, [], version=3, now=NOW)
    journal = place.worker()
    journal.append(lambda _: trust_entry(3, digest(one)))
    journal.state().require_in_force(one)
    with pytest.raises(EvidenceInvalid, match="another trust file of version 3"):
        place.worker().state().require_in_force(other)
    journal.state().require_in_force(other.model_copy(update={"version": 4}))
    with pytest.raises(EvidenceInvalid, match="version 3 or later: the ledger says"):
        place.worker().state().require_in_force(one.model_copy(update={"version": 2}))


def drawn(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.append(lambda _, n=number: ticket(str(n)))  # type: ignore[misc]


def kinds(place: Place) -> list[str]:
    found = (unverified_payload(line, payload_type=LEDGER_TYPE) for line in envelopes(place.path))
    return [str(json.loads(line)["kind"]) for line in found]


def test_a_checkpoint_follows_so_many_entries_whichever_worker_wrote_them(place: Place) -> None:
    one, two = place.worker(every=4), place.worker(every=4)
    assert one.checkpoint() is None
    drawn(one, 1, 2)
    drawn(two, 3, 4, 5, 6)
    drawn(one, 7, 8, 9)
    assert kinds(place) == ["proposal"] * 4 + ["checkpoint"] + ["proposal"] * 4 + ["checkpoint", "proposal"]
    found = two.checkpoint()
    assert found is not None
    assert found.head.number == 9
    assert one.checkpoint() == found == place.worker(every=4).checkpoint()
    assert one.recheck() == 11


def test_a_checkpoint_comes_the_later_the_more_it_keeps(place: Place) -> None:
    """So all that is ever written in checkpoints grows with the ledger, and not with its square."""
    journal = place.worker(every=4)
    for number in range(16):
        journal.append(lambda _, n=number: draft("revocation", subject=sha256(str(n).encode())))  # type: ignore[misc]
    assert [number for number, kind in enumerate(kinds(place), start=1) if kind == "checkpoint"] == [5, 10, 19]


def test_a_checkpoint_that_cannot_be_written_is_tried_again_later_and_the_entry_before_it_stands(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = place.worker(every=2)
    drawn(journal, 1)
    written: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > 2:
            raise ServiceUnavailable("no space left")
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("guardrail.evidence.ledger.ledger_file.write_atomically", full)
        head = journal.append(lambda _: ticket("2"))
    assert head.number == 2
    assert kinds(place) == ["proposal"] * 2
    drawn(journal, 3, 4)
    assert kinds(place) == ["proposal"] * 4 + ["checkpoint"]


@pytest.mark.parametrize("step", range(1, 5))
def test_a_kill_at_any_step_of_a_checkpoint_leaves_a_ledger_that_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Steps that last: the entry's line and head, then the checkpoint's."""
    journal, steps = place.worker(every=2), 0
    drawn(journal, 1)

    def killed(path: Path, data: bytes) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise KeyboardInterrupt
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("guardrail.evidence.ledger.ledger_file.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.append(lambda _: ticket("2"))
    again = place.worker(every=2)
    drawn(again, 3, 4, 5)
    assert again.recheck() == len(kinds(place))
    assert {"1", "3", "4", "5"} <= set(again.state().tickets)
    assert again.checkpoint() is not None


def test_a_ledger_with_a_checkpoint_that_lies_starts_nothing(place: Place) -> None:
    journal = place.worker()
    drawn(journal, 1, 2)
    LedgerFile(place.path, place.head).append(
        lambda head: next_entry(head, time=NOW, kind="checkpoint", subject=sha256(b"a lie")), place.signer.private
    )
    with pytest.raises(EvidenceInvalid, match="entry 3 is a checkpoint of"):
        place.worker()
    with pytest.raises(EvidenceInvalid, match="entry 3 is a checkpoint of"):
        journal.state()


def test_pages_are_read_from_where_they_begin(place: Place) -> None:
    journal = place.worker(every=3)
    drawn(journal, *range(7))
    whole = list(envelopes(place.path))
    for after in range(len(whole) + 1):
        for most in (1, 3, 100):
            assert journal.page(after, most) == whole[after : after + most]
