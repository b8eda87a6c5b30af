"""Envelopes: one form only, every signature checked, no byte that may change."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import (
    LARGEST,
    PAYLOAD_TYPE,
    add_signature,
    sign,
    signers,
    unverified_payload,
    verify,
)
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.ecdsa import ORDER

PAYLOAD = b'{"a":1,"text":"' + b"x" * 40 + b'"}'


def made(kind: key_pairs.KeyType = "ed25519") -> key_pairs.PrivateKey:
    with tempfile.TemporaryDirectory() as folder:
        return key_pairs.load_private(key_pairs.init(Path(folder), kind=kind).private)


ONE, TWO, CURVE = made(), made(), made("ecdsa")
TRUSTED = [key_pairs.public_of(ONE)]
BOTH = [key_pairs.public_of(ONE), key_pairs.public_of(TWO), key_pairs.public_of(CURVE)]
GOOD = sign(PAYLOAD, ONE)
ON_CURVE = sign(PAYLOAD, CURVE)


def test_what_was_signed_comes_back() -> None:
    assert verify(GOOD, TRUSTED) == PAYLOAD
    assert signers(GOOD) == (TRUSTED[0].keyid,)


def test_signing_again_gives_the_same_bytes_whatever_the_order_of_the_keys() -> None:
    assert sign(PAYLOAD, ONE) == GOOD
    assert sign(PAYLOAD, ONE, TWO) == sign(PAYLOAD, TWO, ONE)


def test_securesystemslib_alone_verifies_it() -> None:
    Envelope.from_dict(json.loads(GOOD)).verify(TRUSTED, 1)


@settings(max_examples=300)
@given(st.data())
def test_changing_any_byte_is_refused(data: st.DataObject) -> None:
    envelope = data.draw(st.sampled_from([GOOD, sign(PAYLOAD, ONE, TWO), ON_CURVE]))
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


@settings(max_examples=100)
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


@pytest.mark.parametrize("attempt", range(8))
def test_an_ecdsa_signature_has_one_spelling(attempt: int) -> None:
    """(r, n - s) verifies as well as (r, s), and anyone can write it: it must not become a second envelope."""
    envelope = Envelope.from_dict(json.loads(sign(PAYLOAD, CURVE)))
    (signature,) = envelope.signatures.values()
    r, s = decode_dss_signature(bytes.fromhex(signature.signature))
    assert s <= ORDER // 2
    signature.signature = encode_dss_signature(r, ORDER - s).hex()
    envelope.verify([key_pairs.public_of(CURVE)], 1)  # securesystemslib takes either
    with pytest.raises(EvidenceInvalid, match="second spelling"):
        verify(canonical(envelope.to_dict()), BOTH)


def test_a_signature_can_be_added_later_and_each_only_once() -> None:
    both = sign(PAYLOAD, ONE, TWO)
    assert add_signature(GOOD, TWO) == both == add_signature(both, ONE)
    with pytest.raises(EvidenceInvalid):
        add_signature(b"junk", ONE)


def test_an_envelope_of_another_type_is_refused_though_the_key_is_right() -> None:
    other = sign(PAYLOAD, ONE, payload_type="application/other")
    assert verify(other, TRUSTED, payload_type="application/other") == PAYLOAD
    for data, wanted in ((other, PAYLOAD_TYPE), (GOOD, "application/other")):
        with pytest.raises(EvidenceInvalid, match="the envelope holds"):
            verify(data, TRUSTED, payload_type=wanted)
    assert unverified_payload(GOOD) == PAYLOAD
