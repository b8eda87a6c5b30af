"""One ECDSA signature, one spelling: whoever has (r, s) can write (r, n - s) as well, and both verify.

An envelope's own digest names the evidence, so a second spelling would be a second name for it, made without the key.
We keep the lower s (as BIP 62 and RFC 6979 users do) in strict DER, and refuse the other. Any verifier accepts it.
Ed25519 needs none of this: RFC 8032 has verifiers refuse an s that is not reduced.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (SEC 2, 2.4.2)."""


def low_s(signature: bytes) -> bytes:
    """The signature with the lower of its two s, in DER.

    Raises:
        ValueError: these bytes are no ECDSA signature.
    """
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s) if 0 < s < ORDER else s)


def is_low_s(signature: bytes) -> bool:
    """Whether the bytes are exactly what :func:`low_s` makes."""
    try:
        return low_s(signature) == signature
    except ValueError:
        return False
