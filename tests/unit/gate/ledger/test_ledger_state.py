"""What entries add up to: attempts, tickets, votes, aliases; and that the order of asking changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.evidence.digest import GENESIS, sha256
from guardrail.evidence.ledger.entries import Entry, EntryKind, Head
from guardrail.gate.ledger.ledger_state import LedgerState

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLACE = ("m", "production")


def entry(number: int, kind: EntryKind, **fields: Any) -> Entry:
    given = {"model": "m", "alias": "production", **fields}
    return Entry(number=number, previous=GENESIS, time=NOW, kind=kind, **given)


def head_of(one: Entry) -> Head:
    return Head(digest=sha256(str(one.number).encode()), number=one.number, time=one.time)


def state(*told: tuple[EntryKind, dict[str, Any]]) -> LedgerState:
    made = LedgerState()
    for number, (kind, fields) in enumerate(told, start=1):
        made.take(one := entry(number, kind, **fields), head_of(one))
    return made


ADAPTER, OTHER = sha256(b"adapter"), sha256(b"other")
EVIDENCE, LATER = sha256(b"evidence"), sha256(b"later")


def ticket(nonce: str) -> tuple[EntryKind, dict[str, Any]]:
    return "proposal", {"nonce": nonce}


def bound(nonce: str, manifest: str) -> tuple[EntryKind, dict[str, Any]]:
    return "proposal", {"nonce": nonce, "subject": manifest}


def test_a_ticket_costs_nothing_and_an_adapter_is_an_attempt() -> None:
    made = state(ticket("a"), ticket("b"), ticket("c"), bound("b", ADAPTER))
    assert made.bound["b"].attempt == 1
    assert set(made.tickets) == {"a", "b", "c"}


def test_a_ticket_stays_with_its_first_adapter() -> None:
    made = state(ticket("a"), bound("a", ADAPTER), bound("a", OTHER), ticket("b"), bound("b", OTHER))
    assert made.bound["a"].manifest == ADAPTER
    assert made.bound["b"].attempt == 2


def test_a_promotion_starts_a_new_count_for_its_own_alias_only() -> None:
    made = state(
        ticket("a"),
        bound("a", ADAPTER),
        ("promotion", {"version": "1", "evidence": EVIDENCE}),
        ticket("b"),
        bound("b", OTHER),
        ("proposal", {"nonce": "c", "alias": "beta"}),
        ("proposal", {"nonce": "c", "alias": "beta", "subject": OTHER}),
    )
    assert made.bound["b"].attempt == 1
    assert made.attempts == {PLACE: 1, ("m", "beta"): 1}


@pytest.mark.parametrize("kind", ["decision", "denial"])
def test_the_first_evidence_spends_the_ticket(kind: EntryKind) -> None:
    made = state(
        ticket("a"), (kind, {"nonce": "a", "evidence": EVIDENCE}), ("decision", {"nonce": "a", "evidence": LATER})
    )
    assert made.closed["a"] == EVIDENCE


def test_a_refusal_that_names_no_ticket_spends_none() -> None:
    made = state(ticket("a"), ("denial", {"evidence": EVIDENCE}))
    assert made.closed == {}
    assert EVIDENCE in made.denied


def test_what_was_promoted_or_rejected_waits_no_more() -> None:
    admitted: tuple[EntryKind, dict[str, Any]] = ("decision", {"nonce": "a", "evidence": EVIDENCE, "subject": ADAPTER})
    assert [one.evidence for one in state(admitted).waiting()] == [EVIDENCE]
    assert state(admitted, ("promotion", {"version": "1", "evidence": EVIDENCE})).waiting() == []
    assert state(admitted, ("rejection", {"evidence": EVIDENCE, "statement": OTHER})).waiting() == []


def test_the_highest_version_is_remembered_over_a_rollback() -> None:
    made = state(
        ("promotion", {"version": "1", "evidence": EVIDENCE}),
        ("promotion", {"version": "2", "evidence": LATER}),
        ("rollback", {"version": "1", "statement": OTHER}),
    )
    assert (made.stands[PLACE].version, made.highest[PLACE], made.moved_by[PLACE]) == ("1", 2, OTHER)


@given(st.lists(st.sampled_from(["ticket", "bind", "promote"]), max_size=40))
def test_attempts_are_the_adapters_since_the_last_promotion(steps: list[str]) -> None:
    told: list[tuple[EntryKind, dict[str, Any]]] = []
    expected, tickets = 0, 0
    for step in steps:
        if step == "ticket":
            tickets += 1
            told.append(ticket(str(tickets)))
        elif step == "bind":
            tickets += 1
            expected += 1
            told += [ticket(str(tickets)), bound(str(tickets), ADAPTER)]
        else:
            expected = 0
            told.append(("promotion", {"version": str(len(told) + 1), "evidence": sha256(str(len(told)).encode())}))
    assert state(*told).attempts.get(PLACE, 0) == expected


def test_evidence_held_when_it_was_last_admitted_agreed_to_or_promoted() -> None:
    """Persons agree days after it was admitted; going back there is judged at a time when all of it held."""
    made = LedgerState()
    told: list[tuple[EntryKind, dict[str, Any]]] = [
        ("decision", {"nonce": "a", "subject": ADAPTER}),
        ("approval", {"statement": OTHER}),
        ("promotion", {"version": "1"}),
        ("rejection", {"statement": LATER}),
    ]
    held = []
    for day, (kind, fields) in enumerate(told):
        number = day + 1
        one = entry(number, kind, evidence=EVIDENCE, **fields).model_copy(update={"time": NOW + timedelta(days=day)})
        made.take(one, head_of(one))
        held.append((made.held[EVIDENCE] - NOW).days)
    assert held == [0, 1, 2, 2]


def _admitted(evidence: str, adapter: str, **fields: Any) -> tuple[EntryKind, dict[str, Any]]:
    return "decision", {"nonce": evidence[:8], "evidence": evidence, "subject": adapter, **fields}


def _promoted(evidence: str, adapter: str, version: str) -> tuple[EntryKind, dict[str, Any]]:
    return "promotion", {"version": version, "evidence": evidence, "subject": adapter}


def test_a_rollback_of_an_older_ledger_went_to_what_was_promoted_under_its_number() -> None:
    """It did not name the evidence."""
    back: tuple[EntryKind, dict[str, Any]] = ("rollback", {"version": "1", "subject": ADAPTER, "statement": OTHER})
    first, second = (EVIDENCE, ADAPTER), (LATER, OTHER)
    made = state(_admitted(*first), _promoted(*first, "1"), _admitted(*second), _promoted(*second, "2"), back)
    assert (made.stands[PLACE].evidence, made.before[PLACE].evidence) == (EVIDENCE, LATER)
    never = state(_admitted(*first), _admitted(*second), _promoted(*second, "2"), back)
    assert never.stands[PLACE].evidence == EVIDENCE, "the only one of its adapter"
    third = _admitted(sha256(b"third"), ADAPTER)
    doubtful = state(_admitted(*first), third, _admitted(*second), _promoted(*second, "2"), back)
    assert doubtful.stands[PLACE].evidence == ""
    assert doubtful.stands[PLACE].holds(doubtful.admitted[EVIDENCE]), "the adapter must do"
    assert not doubtful.stands[PLACE].holds(doubtful.admitted[LATER])


def test_evidence_is_overtaken_by_what_was_complete_after_it_and_by_having_been_left() -> None:
    first, second = (EVIDENCE, ADAPTER), (LATER, OTHER)
    made = state(_admitted(*first), _admitted(*second), _promoted(*second, "2"))
    assert [made.overtaken(made.admitted[one]) for one in (EVIDENCE, LATER)] == [True, False]
    agreed: tuple[EntryKind, dict[str, Any]] = ("approval", {"evidence": EVIDENCE, "statement": OTHER})
    late = state(_admitted(*first), _admitted(*second), _promoted(*second, "2"), agreed)
    assert not late.overtaken(late.admitted[EVIDENCE]), "persons agreed after that"
    left = state(
        _admitted(*first),
        _promoted(*first, "1"),
        _admitted(*second),
        _promoted(*second, "2"),
        ("rollback", {"version": "1", "evidence": EVIDENCE, "subject": ADAPTER, "statement": OTHER}),
    )
    assert [left.overtaken(left.admitted[one]) for one in (EVIDENCE, LATER)] == [False, True]


def test_a_number_belongs_to_the_evidence_that_an_alias_was_moved_to_under_it() -> None:
    first, second = (EVIDENCE, ADAPTER), (LATER, OTHER)
    made = state(_admitted(*first), _promoted(*first, "7"), _admitted(*second))
    assert [made.may_name("m", number, made.admitted[LATER]) for number in ("7", "8")] == [False, True]
    assert made.may_name("m", "7", made.admitted[EVIDENCE])
    assert made.last_number == {"m": 7}
    assert made.stands[PLACE].is_at("7", made.admitted[EVIDENCE])
    assert not made.stands[PLACE].is_at("7", made.admitted[LATER])
    assert not made.stands[PLACE].is_at("07", made.admitted[EVIDENCE])
