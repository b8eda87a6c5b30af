"""Checkpoints: what a ledger adds up to is the same from the first entry and from any checkpoint, and none may lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import forged, history
from trust_files import NOW, key, public

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, digest, sha256
from guardrail.evidence.ledger.checkpoint import Checkpoint
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.evidence.ledger.follows import LedgerChain
from guardrail.evidence.ledger.signed_ledger import advance, append, next_entry, verify
from guardrail.evidence.ledger.sums import Sums
from guardrail.evidence.statements.tickets import LIFETIME
from guardrail.gate.ledger.ledger_state import LedgerState

SERVER = public("server")


@dataclass
class Book:
    """A ledger that is being written, with what it adds up to; ``seconds`` pass between two entries."""

    lines: list[bytes] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    head: Head | None = None
    seconds: float = 1.0

    def note(self, kind: EntryKind, *, signer: str = "server", **what: Any) -> None:
        time = NOW if self.head is None else self.head.time + timedelta(seconds=self.seconds)
        entry = next_entry(self.head, time=time, kind=kind, **what)
        self.lines.append(append(self.head, entry, key(signer)))
        self.head = advance(self.head, self.lines[-1])
        if kind != "checkpoint" or entry.subject == digest(self.sums.checkpoint()):
            self.sums.take(entry, self.head)

    def checkpoint(self, change: Callable[[Checkpoint], Checkpoint] = lambda made: made, **given: Any) -> Checkpoint:
        """Commit to what was added up, or to a lie about it."""
        made = change(self.sums.checkpoint())
        self.note("checkpoint", subject=digest(made), **given)
        return made

    def after(self, checkpoint: Checkpoint) -> list[bytes]:
        return self.lines[checkpoint.head.number :]


def adapter(number: int) -> str:
    return sha256(f"adapter {number}".encode())


def evidence(number: int) -> str:
    return sha256(f"evidence {number}".encode())


def attempted(book: Book, number: int, alias: str = "production") -> None:
    book.note("proposal", model="guarded", alias=alias, nonce=str(number))
    book.note("proposal", model="guarded", alias=alias, nonce=str(number), subject=adapter(number))


def promoted(book: Book, number: int, alias: str = "production") -> None:
    what = {
        "model": "guarded",
        "alias": alias,
        "nonce": str(number),
        "subject": adapter(number),
        "evidence": evidence(number),
    }
    attempted(book, number, alias)
    book.note("decision", **what)
    book.note("approval", **what, statement=sha256(b"yes"))
    book.note("promotion", version=str(number), **what)


def full() -> Book:
    """Everything that a checkpoint says something about."""
    book = Book()
    book.note("trust", version="1", subject=sha256(b"trust"))
    promoted(book, 1)
    attempted(book, 2)
    promoted(book, 3)
    attempted(book, 4)
    attempted(book, 5, alias="staging")
    book.note("revocation", subject=adapter(1), note="poisoned")
    return book


def read(lines: Sequence[bytes], checkpoint: Checkpoint | None = None, **given: Any) -> Sums:
    """What a ledger adds up to, checked, from the first entry or from a checkpoint."""
    sums = Sums.of(checkpoint) if checkpoint else Sums()
    verify(lines, SERVER, sums=sums, **given)
    return sums


def answers(sums: Sums) -> object:
    """Everything that a verifier may ask."""
    return (sums.entries, sums.attempts, sums.adapters, sums.since, sums.head, sums.latest)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ticket", "bind", "decision", "denial", "promotion", "revocation", "checkpoint", "wait"]),
        st.integers(0, 5),
        st.sampled_from(["production", "staging"]),
    ),
    max_size=40,
)


def play(steps: Sequence[tuple[str, int, str]]) -> tuple[Book, list[Checkpoint]]:
    """A ledger of these steps, however little sense they make, and its checkpoints."""
    book, found = Book(), list[Checkpoint]()
    book.note("trust", version="1", subject=sha256(b"trust"))
    for step, number, alias in steps:
        place = {"model": "guarded", "alias": alias, "nonce": str(number)}
        if step == "checkpoint":
            found.append(book.checkpoint())
        elif step == "wait":
            book.seconds = LIFETIME.total_seconds() / 2
            book.note("trust", version="1")
            book.seconds = 1
        elif step == "ticket":
            book.note("proposal", **place)
        elif step == "bind":
            book.note("proposal", **place, subject=adapter(number))
        elif step == "revocation":
            book.note("revocation", subject=adapter(number))
        else:
            kind: Any = step
            book.note(kind, **place, subject=adapter(number), evidence=evidence(number), version="1")
    return book, found


@given(STEPS)
def test_a_ledger_adds_up_to_the_same_from_the_first_entry_and_from_every_checkpoint(
    steps: list[tuple[str, int, str]],
) -> None:
    book, checkpoints = play(steps)
    whole = read(book.lines)
    assert answers(whole) == answers(book.sums)
    for checkpoint in checkpoints:
        assert answers(read(book.after(checkpoint), checkpoint)) == answers(whole)


@given(STEPS, st.integers(0, 30))
def test_unused_tickets_add_nothing_to_a_checkpoint(steps: list[tuple[str, int, str]], more: int) -> None:
    plain, _ = play(steps)
    flooded, _ = play([("ticket", 0, "production"), *steps])
    for number in range(more):
        flooded.note("proposal", model="guarded", alias="production", nonce=f"flood {number}")
    made, other = plain.sums.checkpoint(), flooded.sums.checkpoint()
    assert [one.nonce for one in made.attempts] == [one.nonce for one in other.attempts]
    assert [(e.kind, e.nonce) for e in made.entries] == [(e.kind, e.nonce) for e in other.entries]


def test_a_verifier_learns_from_a_checkpoint_what_it_learns_from_the_whole() -> None:
    book = full()
    checkpoint = book.checkpoint()
    attempted(book, 6)
    sums = read(book.after(checkpoint), checkpoint)
    assert {n: one.number for n, one in sums.attempts.items()} == {"1": 1, "2": 1, "3": 2, "4": 1, "5": 1, "6": 2}
    assert sums.adapters == {("guarded", "production"): 5, ("guarded", "staging"): 1}
    assert sums.since == {("guarded", "production"): 2, ("guarded", "staging"): 1}
    assert [e.kind for e in sums.entries].count("promotion") == 2


def _other_head(made: Checkpoint) -> Checkpoint:
    return made.model_copy(update={"head": made.head.model_copy(update={"digest": sha256(b"other")})})


def _changed(name: str, index: int, **changes: Any) -> Callable[[Checkpoint], Checkpoint]:
    def change(made: Checkpoint) -> Checkpoint:
        parts = list(getattr(made, name))
        parts[index] = parts[index].model_copy(update=changes)
        return made.model_copy(update={name: tuple(parts)})

    return change


def _without(name: str, index: int) -> Callable[[Checkpoint], Checkpoint]:
    def change(made: Checkpoint) -> Checkpoint:
        parts = list(getattr(made, name))
        del parts[index]
        return made.model_copy(update={name: tuple(parts)})

    return change


LIES = {
    "a revocation left out": _without("entries", -1),
    "an approval left out": _without("entries", 2),
    "a promotion to another version": _changed("entries", 3, version="9"),
    "an admission of another adapter": _changed("entries", 1, subject=adapter(9)),
    "an admission of other evidence": _changed("entries", 1, evidence=evidence(9)),
    "an entry of another time": _changed("entries", 1, time=NOW),
    "an entry of another number": _changed("entries", 1, number=99),
    "a note that nobody wrote": _changed("entries", 1, note="fine"),
    "another order of entries": lambda made: made.model_copy(update={"entries": made.entries[::-1]}),
    "an entry twice": lambda made: made.model_copy(update={"entries": (*made.entries, made.entries[-1])}),
    "fewer attempts since the promotion": _changed("places", 0, attempts=0),
    "fewer adapters ever": _changed("places", 0, adapters=1),
    "a place left out": _without("places", 0),
    "a lower attempt": _changed("attempts", 0, number=7),
    "an attempt with another adapter": _changed("attempts", 0, manifest=adapter(9)),
    "an attempt at another alias": _changed("attempts", 0, alias="staging"),
    "a bound ticket left out": _without("attempts", 1),
    "another head": _other_head,
}


@pytest.mark.parametrize("lie", LIES)
def test_whoever_reads_the_whole_ledger_finds_a_checkpoint_that_lies_and_its_entry_is_the_proof(lie: str) -> None:
    book = full()
    book.checkpoint(LIES[lie])
    book.note("trust", version="2")
    with pytest.raises(EvidenceInvalid, match=r"entry 19 is a checkpoint of .*") as found:
        read(book.lines)
    assert "keep the ledger as evidence" in found.value.next_step


@pytest.mark.parametrize("lie", LIES)
def test_another_document_than_the_ledger_names_is_refused(lie: str) -> None:
    """On the way, or by a server that gives a lie to one reader alone."""
    book = full()
    checkpoint = book.checkpoint()
    with pytest.raises(EvidenceInvalid):
        read(book.after(checkpoint), LIES[lie](checkpoint))


def test_a_checkpoint_counts_only_with_the_entry_that_names_it() -> None:
    book = full()
    unnamed = book.sums.checkpoint()
    with pytest.raises(EvidenceInvalid, match="no entry follows"):
        read([], unnamed)
    book.note("trust", version="2")
    with pytest.raises(EvidenceInvalid, match="entry 19 is a trust"):
        read(book.after(unnamed), unnamed)


def test_a_checkpoint_whose_entry_another_key_signed_is_refused() -> None:
    book = full()
    checkpoint = book.checkpoint(signer="ana")
    with pytest.raises(EvidenceInvalid, match="which was not given"):
        read(book.after(checkpoint), checkpoint)


def test_a_checkpoint_of_another_ledger_is_refused() -> None:
    book, other = full(), Book()
    other.note("trust", version="1")
    for number in range(14):
        other.note("trust", version=str(number))
    foreign = other.checkpoint()
    book.checkpoint()
    with pytest.raises(EvidenceInvalid, match="does not follow"):
        read(book.after(foreign), foreign)


def test_an_older_checkpoint_gives_the_same_with_more_to_read() -> None:
    book = full()
    first = book.checkpoint()
    promoted(book, 7)
    second = book.checkpoint()
    assert answers(read(book.after(first), first)) == answers(read(book.after(second), second))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_an_end_that_is_missing_after_a_checkpoint_shows_against_the_head(cut: int) -> None:
    book = full()
    checkpoint = book.checkpoint()
    attempted(book, 7)
    book.note("revocation", subject=adapter(3))
    with pytest.raises(EvidenceInvalid, match="the ledger ends with entry"):
        verify(book.after(checkpoint)[:-cut], SERVER, book.head, sums=Sums.of(checkpoint))


def test_a_head_from_before_the_checkpoint_is_not_compared_with_nothing() -> None:
    book = full()
    early = book.head
    book.note("trust", version="2")
    checkpoint = book.checkpoint()
    with pytest.raises(EvidenceInvalid, match="before the checkpoint"):
        verify(book.after(checkpoint), SERVER, early, sums=Sums.of(checkpoint))


def test_a_bound_ticket_that_can_no_longer_be_admitted_is_dropped_and_one_that_can_is_kept() -> None:
    book = Book()
    attempted(book, 1)
    book.seconds = LIFETIME.total_seconds() - 10
    book.note("trust", version="1")
    book.seconds = 1
    attempted(book, 2)
    assert [one.nonce for one in book.sums.checkpoint().attempts] == ["1", "2"]
    book.seconds = 120  # more than a clock may go back
    book.note("trust", version="1")
    assert [one.nonce for one in book.checkpoint().attempts] == ["2"]
    assert list(book.sums.attempts) == ["2"]


def test_a_denial_drops_its_ticket_and_what_was_admitted_stays_for_ever() -> None:
    book = full()
    book.note("denial", model="guarded", alias="production", nonce="4", subject=adapter(4), evidence=evidence(4))
    book.note("denial", model="guarded", alias="production", nonce="1", evidence=evidence(8))
    book.seconds = 2 * LIFETIME.total_seconds()
    book.note("trust", version="1")
    assert [one.nonce for one in book.checkpoint().attempts] == ["1", "3"]


def test_a_checkpoint_before_everything_is_refused() -> None:
    first = forged(next_entry(None, time=NOW, kind="checkpoint", subject=sha256(b"")))
    with pytest.raises(EvidenceInvalid, match="no entry before the checkpoint"):
        read([first])


def test_a_ledger_from_before_checkpoints_verifies_and_has_none() -> None:
    found = verify(history(30), SERVER)
    assert (found.entries, found.checkpoints) == (30, 0)


def test_an_entry_is_written_as_it_was_before_there_were_checkpoints() -> None:
    entry = Entry(
        number=1, previous="0" * 64, time=NOW, kind="proposal", model="guarded", alias="production", nonce="1"
    )
    assert sha256(canonical(entry)) == "88ceef63f84f6ff3505e73897556201e65fc83e3d6bb966d6ab897e0d8409950"


def test_the_bytes_of_a_checkpoint_are_the_same_wherever_it_is_made() -> None:
    book = full()
    checkpoint = book.checkpoint()
    assert canonical(Checkpoint.model_validate_json(canonical(checkpoint))) == canonical(checkpoint)
    chain, sums = LedgerChain(None), Sums()
    for line in book.lines[:-1]:
        entry = Entry.model_validate_json(_payload(line))
        sums.take(entry, chain.follow(entry, sha256(line)))
    assert sums.checkpoint() == checkpoint


def _payload(line: bytes) -> bytes:
    from guardrail.evidence.envelope import unverified_payload
    from guardrail.evidence.ledger.signed_ledger import LEDGER_TYPE

    return unverified_payload(line, payload_type=LEDGER_TYPE)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bind", "decision", "denial", "promotion", "checkpoint"]),
            st.integers(0, 9),
            st.sampled_from(["a", "b"]),
        ),
        max_size=40,
    )
)
def test_what_a_verifier_adds_up_agrees_with_the_server(steps: list[tuple[Any, int, str]]) -> None:
    """Attempts, admissions, revocations and where each alias stands; each ticket is bound once."""
    server, sums, number = LedgerState(), Sums(), 0
    places: dict[str, str] = {}
    for step, nonce, alias in steps:
        if step == "bind" and str(nonce) in places:
            continue
        alias = places.setdefault(str(nonce), alias) if step == "bind" else alias
        fields: dict[str, Any] = {"model": "guarded", "alias": alias, "nonce": str(nonce), "subject": adapter(nonce)}
        fields |= {} if step in ("bind", "checkpoint") else {"evidence": evidence(nonce), "version": "1"}
        if step == "checkpoint":
            if not number:
                continue
            fields = {"subject": digest(sums.checkpoint())}
        number += 1
        kind = "proposal" if step == "bind" else step
        one = Entry(number=number, previous="0" * 64, time=NOW, kind=kind, **fields)
        head = Head(digest=sha256(str(number).encode()), number=number, time=one.time)
        server.take(one, head)
        sums.take(one, head)
    counted = {nonce: (attempt.manifest, attempt.number) for nonce, attempt in sums.attempts.items()}
    assert counted == {nonce: (server.bound[nonce].manifest, server.bound[nonce].attempt) for nonce in counted}
    assert {place: count for place, count in sums.since.items() if count} == {
        place: count for place, count in server.attempts.items() if count
    }
    assert {e.evidence for e in sums.entries if e.kind == "decision"} == set(server.admitted)
    moved = {(e.model, e.alias): e.version for e in sums.entries if e.kind in ("promotion", "rollback")}
    assert moved == {place: position.version for place, position in server.stands.items()}
