"""DSSE envelopes (https://github.com/secure-systems-lab/dsse): who signed exactly which bytes.

An envelope has one form only: canonical JSON, standard base64, signatures sorted by key id, ECDSA with the lower s.
Everything else is refused, even where a lenient reader would still find the signature good, because the envelope's own
digest names the evidence. A signature by a key that was not given is refused too: nothing in an envelope goes
unchecked. Not covered: what the payload says (``evidence/statements/decision_statement.py``,
``evidence/trust/trust_file.py``, ``evidence/ledger/signed_ledger.py``) and when it was signed (the payload's own
times).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.evidence.keys.ecdsa import is_low_s, low_s
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
LARGEST = 4 << 20


def sign(payload: bytes, *private_keys: PrivateKey, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The canonical envelope around ``payload``, signed by every key given (Ed25519: the same bytes each time).

    Raises:
        ValueError: no key, or more bytes than ``verify`` would accept.
        ServiceUnavailable: a key's service does not answer.
    """
    if not private_keys:
        raise ValueError("an envelope needs at least one signature")
    return _signed(Envelope(payload, payload_type, {}), private_keys)


def add_signature(data: bytes, private_key: PrivateKey, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The same envelope with one signature more (or the same one again); those on it are kept as they are.

    Raises:
        EvidenceInvalid: not a canonical envelope of this type.
        ValueError: more bytes than ``verify`` would accept.
    """
    return _signed(_read(data, payload_type), (private_key,))


def verify(
    data: bytes, public_keys: Sequence[PublicKey], threshold: int = 1, *, payload_type: str = PAYLOAD_TYPE
) -> bytes:
    """The payload, after every signature on it has been checked.

    Args:
        data: the envelope's bytes.
        public_keys: the keys that are trusted.
        threshold: how many different keys must have signed.
        payload_type: what the envelope must hold.

    Raises:
        EvidenceInvalid: too large, not canonical, of another type, or not signed as required.
    """
    envelope = _read(data, payload_type)
    trusted = {key.keyid: key for key in public_keys}
    unknown = sorted(set(envelope.signatures) - set(trusted))
    if unknown:
        raise EvidenceInvalid(
            f"the envelope is signed by key {unknown[0]}, which was not given",
            expected=f"signatures by {', '.join(sorted(trusted)) or 'a known key'}",
            next_step="give the public key of everyone who signed, if you trust them",
        )
    _verify_all(envelope, trusted)
    if not 0 < threshold <= len(envelope.signatures):
        raise EvidenceInvalid(f"the envelope has {len(envelope.signatures)} signatures", expected=f"{threshold}")
    return bytes(envelope.payload)


def signers(data: bytes, *, payload_type: str = PAYLOAD_TYPE) -> tuple[str, ...]:
    """The key ids on the envelope, sorted; says nothing about whether they verify."""
    return tuple(sorted(_read(data, payload_type).signatures))


def unverified_payload(data: bytes, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """The payload, WITHOUT looking at any signature: to learn which keys it asks for, before :func:`verify`."""
    return bytes(_read(data, payload_type).payload)


def _signed(envelope: Envelope, private_keys: Sequence[PrivateKey]) -> bytes:
    for key in private_keys:
        signature = envelope.sign(key)
        if key.public_key.keytype == "ecdsa":
            signature.signature = low_s(bytes.fromhex(signature.signature)).hex()
    data = _canonical(envelope)
    if len(data) > LARGEST:
        raise ValueError(f"an envelope may hold {LARGEST} bytes, this one has {len(data)}")
    return data


def _verify_all(envelope: Envelope, trusted: dict[str, PublicKey]) -> None:
    for key_id, signature in envelope.signatures.items():
        key = trusted[key_id]
        try:
            key.verify_signature(signature, envelope.pae())
            single = key.keytype != "ecdsa" or is_low_s(bytes.fromhex(signature.signature))
        except (Error, ValueError) as error:
            raise EvidenceInvalid(
                f"the signature by key {key_id} does not match the signed bytes",
                expected="an envelope exactly as it was signed",
            ) from error
        if not single:
            raise EvidenceInvalid(
                f"the signature by key {key_id} is a second spelling", expected="ECDSA with the lower s, in DER"
            )


def _read(data: bytes, payload_type: str) -> Envelope:
    if len(data) > LARGEST:
        raise EvidenceInvalid(f"the envelope has {len(data)} bytes", expected=f"at most {LARGEST}")
    try:
        envelope = Envelope.from_dict(json.loads(data.decode("ascii")))
        same = _canonical(envelope) == data
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceInvalid(f"this is not a DSSE envelope: {error}") from error
    plain = all(isinstance(key_id, str) and not s.unrecognized_fields for key_id, s in envelope.signatures.items())
    if not (same and plain):
        raise EvidenceInvalid("the envelope is not in its canonical form", expected="exactly the bytes we write")
    if envelope.payload_type != payload_type:
        raise EvidenceInvalid(f"the envelope holds {envelope.payload_type!r}", expected=payload_type)
    return envelope


def _canonical(envelope: Envelope) -> bytes:
    form = envelope.to_dict()
    form["signatures"] = sorted(form["signatures"], key=lambda signature: str(signature["keyid"]))
    return canonical(form)
