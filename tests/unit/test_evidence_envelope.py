"""Envelopes: one form only, every signature checked, no byte that may change."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from guardrail.errors import EvidenceInvalid
from guardrail.evidence import keys
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import LARGEST, PAYLOAD_TYPE, sign, signers, verify

PAYLOAD = b'{"a":1,"text":"' + b"x" * 40 + b'"}'


def made() -> keys.PrivateKey:
    with tempfile.TemporaryDirectory() as folder:
        return keys.load_private(keys.init(Path(folder)).private)


ONE, TWO = made(), made()
TRUSTED = [keys.public_of(ONE)]
BOTH = [keys.public_of(ONE), keys.public_of(TWO)]
GOOD = sign(PAYLOAD, ONE)


def test_what_was_signed_comes_back() -> None:
    assert verify(GOOD, TRUSTED) == PAYLOAD
    assert signers(GOOD) == (TRUSTED[0].keyid,)


def test_signing_again_gives_the_same_bytes_whatever_the_order_of_the_keys() -> None:
    assert sign(PAYLOAD, ONE) == GOOD
    assert sign(PAYLOAD, ONE, TWO) == sign(PAYLOAD, TWO, ONE)


def test_securesystemslib_alone_verifies_it() -> None:
    Envelope.from_dict(json.loads(GOOD)).verify(TRUSTED, 1)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changing_any_byte_is_refused(data: st.DataObject) -> None:
    envelope = data.draw(st.sampled_from([GOOD, sign(PAYLOAD, ONE, TWO)]))
    position = data.draw(st.integers(0, len(envelope) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != envelope[position]))
    changed = envelope[:position] + bytes([value]) + envelope[position + 1 :]
    with pytest.raises(EvidenceInvalid):
        verify(changed, BOTH)


def test_every_single_bit_of_an_envelope_counts() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            changed = bytearray(GOOD)
            changed[position] ^= 1 << bit
            with pytest.raises(EvidenceInvalid):
                verify(bytes(changed), TRUSTED)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceInvalid):
        verify(data, TRUSTED)


def variants() -> dict[str, bytes]:
    plain = json.loads(GOOD)
    signature = plain["signatures"][0]
    spare = base64.b64encode(b"\x00").decode()
    return {
        "white space": json.dumps(plain).encode(),
        "newline at the end": GOOD + b"\n",
        "extra key": canonical({**plain, "note": "x"}),
        "extra key in a signature": canonical({**plain, "signatures": [{**signature, "note": "x"}]}),
        "repeated key": GOOD.replace(b'{"payload":', b'{"payload":"","payload":', 1),
        "url-safe base64": GOOD.replace(b"+", b"-").replace(b"/", b"_"),
        "another type": canonical({**plain, "payloadType": "text/plain"}),
        "no signature": canonical({**plain, "signatures": []}),
        "the same signature twice": canonical({**plain, "signatures": [signature, signature]}),
        "unpadded payload": canonical({**plain, "payload": spare.rstrip("=")}),
        "key id of another type": canonical({**plain, "signatures": [{**signature, "keyid": 5}]}),
        "no object": b"[]",
        "deep nesting": b"[" * 100_000,
        "too large": b" " * (LARGEST + 1),
    }


@pytest.mark.parametrize("name", variants())
def test_another_form_of_the_same_is_refused(name: str) -> None:
    with pytest.raises(EvidenceInvalid):
        verify(variants()[name], TRUSTED)


def test_an_unknown_signer_is_refused_even_beside_a_known_one() -> None:
    for envelope in (sign(PAYLOAD, TWO), sign(PAYLOAD, ONE, TWO)):
        with pytest.raises(EvidenceInvalid, match="was not given"):
            verify(envelope, TRUSTED)
    with pytest.raises(EvidenceInvalid):
        verify(GOOD, [])


def test_the_threshold_counts_different_keys() -> None:
    assert verify(sign(PAYLOAD, ONE, TWO), BOTH, threshold=2) == PAYLOAD
    for envelope, threshold in ((GOOD, 2), (GOOD, 0), (sign(PAYLOAD, ONE, ONE), 2)):
        with pytest.raises(EvidenceInvalid):
            verify(envelope, BOTH, threshold)


def test_an_envelope_that_could_not_be_verified_is_not_made() -> None:
    for payload, signing in ((b"x" * LARGEST, [ONE]), (PAYLOAD, [])):
        with pytest.raises(ValueError, match="envelope"):
            sign(payload, *signing)


def test_the_type_is_in_toto() -> None:
    assert json.loads(GOOD)["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
