"""The ledger: whatever is done to it afterwards is found, and named by the entry."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import forged, head_of, history
from securesystemslib.dsse import Envelope
from trust_files import NOW, key, public

from guardrail.errors import EvidenceInvalid
from guardrail.evidence import envelope
from guardrail.evidence.digest import GENESIS, canonical, sha256
from guardrail.evidence.ledger.entries import CheckedLedger, Entry, Head
from guardrail.evidence.ledger.fast_envelope import Verifier
from guardrail.evidence.ledger.signed_ledger import (
    BATCH,
    LARGEST_ENTRY,
    LEDGER_TYPE,
    advance,
    append,
    next_entry,
    verify,
)

SERVER = public("server")
GOOD = history(8)
HEAD = head_of(GOOD)


def check(envelopes: list[bytes], head: Head | None = HEAD, **given: Any) -> CheckedLedger:
    return verify(envelopes, SERVER, head, **given)


def entry_of(data: bytes) -> Entry:
    return Entry.model_validate_json(base64.b64decode(json.loads(data)["payload"]))


def test_an_honest_ledger_is_whole() -> None:
    found = check(GOOD)
    assert found == CheckedLedger(entries=8, head=HEAD, jumps=())
    assert entry_of(GOOD[0]).previous == GENESIS
    assert entry_of(GOOD[3]).previous == sha256(GOOD[2])
    assert (HEAD.number, HEAD.digest) == (8, sha256(GOOD[7]))


def test_an_empty_ledger_is_whole_until_a_head_was_exported() -> None:
    assert check([], None) == CheckedLedger(entries=0, head=None, jumps=())
    with pytest.raises(EvidenceInvalid, match="ends with entry 0"):
        check([])


def test_a_ledger_may_go_on_after_the_exported_head() -> None:
    assert check(GOOD, head_of(GOOD[:5])).entries == 8


def test_securesystemslib_alone_verifies_every_entry() -> None:
    for data in GOOD:
        Envelope.from_dict(json.loads(data)).verify(SERVER, 1)


@settings(max_examples=200)
@given(st.data())
def test_changing_any_byte_of_any_entry_is_found(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, 7))
    old = GOOD[index]
    position = data.draw(st.integers(0, len(old) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != old[position]))
    changed = old[:position] + bytes([value]) + old[position + 1 :]
    with pytest.raises(EvidenceInvalid):
        check([*GOOD[:index], changed, *GOOD[index + 1 :]], None)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 7), max_size=12))
def test_only_the_entries_in_their_order_are_accepted(order: list[int]) -> None:
    """Deletions, moves, repetitions and a missing end, in every mixture."""
    envelopes = [GOOD[index] for index in order]
    if order == list(range(8)):
        assert check(envelopes).entries == 8
    else:
        with pytest.raises(EvidenceInvalid):
            check(envelopes)


def test_a_missing_end_shows_only_against_an_exported_head() -> None:
    assert check(GOOD[:5], None).entries == 5
    with pytest.raises(EvidenceInvalid, match="the ledger ends with entry 5"):
        check(GOOD[:5])


def inserted(index: int, name: str = "server") -> bytes:
    """An entry of its own, well signed, that follows the one before ``index``."""
    return forged(entry_of(GOOD[index]), name, note="not what was written")


FORGERIES = {
    "an entry edited and signed again": ([*GOOD[:3], inserted(3), *GOOD[4:]], "entry 5 does not follow"),
    "the last entry edited and signed again": ([*GOOD[:7], inserted(7)], "entry 8 is not the one whose digest"),
    "an entry inserted": ([*GOOD[:3], inserted(3), *GOOD[3:]], "entry 4 stands where entry 5 should"),
    "an entry removed": ([*GOOD[:3], *GOOD[4:]], "entry 5 stands where entry 4 should: entries are missing"),
    "an entry removed and the next renumbered": (
        [*GOOD[:3], forged(entry_of(GOOD[4]), number=4), *GOOD[5:]],
        "entry 4 does not follow",
    ),
    "a number twice": ([*GOOD[:4], GOOD[3], *GOOD[4:]], "entry 4 stands where entry 5 should: its number was there"),
    "two entries exchanged": ([*GOOD[:3], GOOD[4], GOOD[3], *GOOD[5:]], "entry 5 stands where entry 4 should"),
    "a start that is missing": (GOOD[1:], "entry 2 stands where entry 1 should"),
    "a history of another ledger": (history(8, note="other"), "entry 8 is not the one whose digest"),
    "a foreign signer": ([*GOOD[:7], inserted(7, "stranger")], "entry 8: the envelope is signed by key"),
    "an envelope of another type": ([envelope.sign(b"{}", key("server"))], "entry 1: the envelope holds"),
    "two signatures": ([envelope.add_signature(GOOD[0], key("ana"), payload_type=LEDGER_TYPE)], "entry 1: "),
    "no entry": ([envelope.sign(b"{}", key("server"), payload_type=LEDGER_TYPE)], "entry 1: this is not an entry"),
    "junk": ([*GOOD[:2], b"junk"], "entry 3: this is not a DSSE envelope"),
    "a huge line": ([b"x" * (LARGEST_ENTRY + 1)], "entry 1 has 65537 bytes"),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_forgery_is_found_and_named(name: str, workers: int) -> None:
    envelopes, said = FORGERIES[name]
    with pytest.raises(EvidenceInvalid) as caught:
        check(envelopes, workers=workers)
    assert said in caught.value.got


def test_two_signatures_by_known_keys_are_one_too_many() -> None:
    both = envelope.add_signature(GOOD[0], key("ana"), payload_type=LEDGER_TYPE)
    with pytest.raises(EvidenceInvalid, match="several signatures"):
        verify([both], public("server", "ana"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_thing_that_is_wrong_is_named_across_batches(workers: int) -> None:
    """Signatures are verified later than the chain is followed; what comes first is named nevertheless."""
    long = history(2 * BATCH + 10)
    assert verify(long, SERVER, workers=workers).entries == 2 * BATCH + 10
    plain = json.loads(long[700])
    plain["signatures"][0]["sig"] = json.loads(long[701])["signatures"][0]["sig"]
    wrong = canonical(plain)
    for broken in ([*long[:700], wrong, *long[701:]], [*long[:700], wrong, b"junk"], [*long[:700], wrong]):
        with pytest.raises(EvidenceInvalid, match="entry 701: the signature by key"):
            verify(broken, SERVER, workers=workers)


def test_of_two_bad_signatures_the_first_is_named() -> None:
    long = history(6 * BATCH)
    for index in (100, BATCH + 100):
        plain = json.loads(long[index])
        plain["signatures"][0]["sig"] = json.loads(long[0])["signatures"][0]["sig"]
        long[index] = canonical(plain)
        long[index + 1 :] = relinked(long[index], long[index + 1 :])
    with pytest.raises(EvidenceInvalid, match="entry 101: the signature by key"):
        verify(long, SERVER)


def relinked(last: bytes, envelopes: list[bytes]) -> list[bytes]:
    """The same entries, signed again so that they follow from ``last``."""
    made = []
    for data in envelopes:
        last = forged(entry_of(data), previous=sha256(last))
        made.append(last)
    return made


def test_a_rotated_server_key_goes_on_with_the_chain() -> None:
    more = forged(next_entry(HEAD, time=HEAD.time, kind="trust"), "ana")
    assert verify([*GOOD, more], public("server", "ana")).entries == 9


def test_an_ecdsa_key_keeps_a_ledger_too() -> None:
    curve = key("curve", "ecdsa")
    data = append(None, next_entry(None, time=NOW, kind="trust"), curve)
    assert verify([data], [curve.public_key]).entries == 1


# clocks


@pytest.mark.parametrize("back", [0.001, 59, 60])
def test_a_small_step_back_is_reported(back: float) -> None:
    found = check(history(3, seconds=[0, 100, 100 - back]), None)
    assert [(jump.number, jump.seconds) for jump in found.jumps] == [(3, back)]
    assert found.head is not None
    assert found.head.time == NOW + timedelta(seconds=100)


def test_a_large_step_back_is_neither_written_nor_accepted() -> None:
    honest = history(1)
    late = next_entry(head_of(honest), time=NOW - timedelta(seconds=61), kind="decision")
    with pytest.raises(EvidenceInvalid, match="61 s before an earlier entry"):
        append(head_of(honest), late, key("server"))
    with pytest.raises(EvidenceInvalid, match="entry 2 is from"):
        check([*honest, forged(late)], None)


def test_many_small_steps_back_are_one_large_one() -> None:
    with pytest.raises(EvidenceInvalid, match="80 s before"):
        history(3, seconds=[0, -40, -80])


def test_an_entry_from_the_future_is_refused_against_the_reader_s_clock() -> None:
    envelopes = history(1, seconds=[301])
    assert check(envelopes, None, now=NOW + timedelta(seconds=1)).entries == 1
    with pytest.raises(EvidenceInvalid, match=r"entry 1 is from[\s\S]*the server's was ahead"):
        check(envelopes, None, now=NOW)


# appending


def test_only_what_follows_is_appended() -> None:
    right = next_entry(HEAD, time=HEAD.time, kind="decision")
    for wrong in ({"number": 8}, {"number": 10}, {"previous": GENESIS}):
        with pytest.raises(EvidenceInvalid):
            append(HEAD, right.model_copy(update=wrong), key("server"))
    data = append(HEAD, right, key("server"))
    assert check([*GOOD, data], advance(HEAD, data)).entries == 9
    with pytest.raises(EvidenceInvalid):
        advance(None, data)


def test_an_entry_holds_a_bounded_note() -> None:
    with pytest.raises(ValueError, match="4000"):
        next_entry(None, time=NOW, kind="denial", note="x" * 4001)
    with pytest.raises(ValueError, match="UTC"):
        next_entry(None, time=datetime.fromisoformat("2026-03-01T12:00:00+01:00"), kind="denial")
    longest = "\U0001f600" * 4000
    assert verify(
        [append(None, next_entry(None, time=NOW, kind="denial", note=longest), key("server"))], SERVER
    ).entries


# the fast way and the slow one


@settings(max_examples=200)
@given(
    st.text(max_size=50),
    st.text(max_size=10),
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)),
    st.integers(1, 2**53 - 1),
)
def test_an_entry_is_written_as_canonical_json(note: str, model: str, at: datetime, number: int) -> None:
    try:
        entry = Entry(
            number=number, previous=GENESIS, time=at.replace(tzinfo=NOW.tzinfo), kind="trust", note=note, model=model
        )
    except ValueError:  # half a surrogate pair is no text
        return
    assert entry.model_dump_json().encode() == canonical(entry)


KEYS = [*SERVER, *public("ana"), key("curve", "ecdsa").public_key]
SAMPLES = [
    GOOD[0],
    append(None, next_entry(None, time=NOW, kind="trust"), key("curve", "ecdsa")),
    envelope.sign(b"", key("ana"), payload_type=LEDGER_TYPE),
    envelope.sign(b"xy", key("server")),
    envelope.sign(b"z", key("stranger"), payload_type=LEDGER_TYPE),
]


def fast(data: bytes) -> bytes | None:
    verifier = Verifier(KEYS, LEDGER_TYPE)
    try:
        opened = verifier.open(data)
        verifier.check(opened)
    except EvidenceInvalid:
        return None
    return opened.payload


def slow(data: bytes) -> bytes | None:
    try:
        return envelope.verify(data, KEYS, payload_type=LEDGER_TYPE)
    except EvidenceInvalid:
        return None


def test_both_ways_accept_the_same_samples() -> None:
    assert [fast(data) for data in SAMPLES] == [slow(data) for data in SAMPLES]
    assert [fast(data) is None for data in SAMPLES] == [False, False, False, True, True]


@settings(max_examples=400)
@given(st.sampled_from(SAMPLES), st.data())
def test_both_ways_judge_every_change_alike(sample: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sample)))
    piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"=", b"A", b" ", b"\n", b'"', b"\\u0041"]))
    changed = sample[:position] + piece + sample[position + data.draw(st.integers(0, 3)) :]
    assert fast(changed) == slow(changed)


def test_both_ways_refuse_the_other_spelling_of_an_ecdsa_signature() -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    from guardrail.evidence.keys.ecdsa import ORDER

    plain = json.loads(SAMPLES[1])
    r, s = decode_dss_signature(base64.b64decode(plain["signatures"][0]["sig"]))
    plain["signatures"][0]["sig"] = base64.b64encode(encode_dss_signature(r, ORDER - s)).decode()
    assert fast(canonical(plain)) is None is slow(canonical(plain))
