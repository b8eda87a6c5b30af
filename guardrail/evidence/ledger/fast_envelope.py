"""The one-signature envelope again, fast enough for a hundred thousand of them: the same bytes, the same verdict.

``envelope.py`` parses, rebuilds and compares, and makes a key object for each signature; that costs more than the
signature itself. Here the canonical form is matched whole, and key objects are kept. Whatever does not match is given
to ``envelope.verify``, which refuses it in its own words. A test has both judge the same envelopes.
Not covered: envelopes of several signatures (they are refused here).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from guardrail.errors import EvidenceInvalid, InternalError
from guardrail.evidence import envelope
from guardrail.evidence.keys.ecdsa import is_low_s
from guardrail.evidence.keys.key_pairs import PublicKey, RawPublic, raw_public

BASE64 = rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


@dataclass(frozen=True)
class OpenedEnvelope:
    """An envelope in canonical form by a known key, whose signature has NOT been looked at yet."""

    data: bytes
    payload: bytes
    key_id: str
    signature: bytes


class Verifier:
    """Opens and verifies envelopes of one payload type, by any one of some keys."""

    def __init__(self, public_keys: Sequence[PublicKey], payload_type: str) -> None:
        self._public_keys, self._payload_type = tuple(public_keys), payload_type
        self._keys: dict[str, RawPublic] = {key.keyid: raw_public(key) for key in public_keys}
        self._form = re.compile(
            rb'\{"payload":"('
            + BASE64
            + rb')","payloadType":"'
            + re.escape(payload_type.encode("ascii"))
            + rb'","signatures":\[\{"keyid":"([0-9a-f]{64})","sig":"('
            + BASE64
            + rb')"\}\]\}'
        )
        self._pae = b"DSSEv1 %d %b " % (len(payload_type), payload_type.encode("ascii"))

    def open(self, data: bytes) -> OpenedEnvelope:
        """The envelope's parts.

        Raises:
            EvidenceInvalid: as ``envelope.verify``, signatures aside, or it has several signatures.
        """
        found = self._form.fullmatch(data) if len(data) <= envelope.LARGEST else None
        if found is not None:
            payload, signature = b64decode(found[1]), b64decode(found[3])
            key_id = found[2].decode("ascii")
            if b64encode(payload) == found[1] and b64encode(signature) == found[3] and key_id in self._keys:
                return OpenedEnvelope(data, payload, key_id, signature)
        envelope.verify(data, self._public_keys, payload_type=self._payload_type)
        raise EvidenceInvalid("the envelope has several signatures", expected="exactly one")

    def check(self, opened: OpenedEnvelope) -> None:
        """Verify the signature; safe to call from several threads.

        Raises:
            EvidenceInvalid: it does not match.
        """
        signed = self._pae + b"%d %b" % (len(opened.payload), opened.payload)
        if not _good(self._keys[opened.key_id], opened.signature, signed):
            envelope.verify(opened.data, self._public_keys, payload_type=self._payload_type)
            raise InternalError("two verifiers disagree about an envelope", next_step="report it, with the envelope")


def _good(key: RawPublic, signature: bytes, signed: bytes) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            key.verify(signature, signed, ECDSA(SHA256()))
            return is_low_s(signature)
    except InvalidSignature:
        return False
    return True
