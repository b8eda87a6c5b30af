"""The trust file: signed by k-of-n root keys, versioned upwards only, with an expiry. The one thing an operator pins.

It is a DSSE envelope (``envelope.py``) around the canonical JSON of :class:`Trust`. Two thresholds must be met: that of
the keys the reader already trusts, and that of the root which the file itself names. A change of the root is therefore
signed by the old root and by the new one, as in The Update Framework (specification 1.0.33, 5.3.4; unlike there, a
version may be left out, because a reader who was away must not be locked out).
Not covered: where it is kept, and how readers come by the root keys (out of band, once).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import ValidationError

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import add_signature, sign, signers, unverified_payload, verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey
from guardrail.evidence.trust.trust_rules import problems
from guardrail.evidence.trust.trust_types import (
    ROLES,
    GuardedModel,
    KeyId,
    Least,
    LeastRate,
    LeastUtility,
    ProtectedAlias,
    PublicKeyEntry,
    Role,
    Roles,
    Root,
    Trust,
)

__all__ = [
    "ROLES",
    "TRUST_TYPE",
    "GuardedModel",
    "KeyId",
    "Least",
    "LeastRate",
    "LeastUtility",
    "ProtectedAlias",
    "PublicKeyEntry",
    "Role",
    "Roles",
    "Root",
    "Trust",
    "add_trust_signature",
    "load_successor",
    "load_trust",
    "read_unverified_trust",
    "sign_trust",
    "trust_signers",
]

TRUST_TYPE = "application/vnd.mlflow-guardrail.trust+json"
CLOCKS_DIFFER = timedelta(minutes=5)


def load_trust(data: bytes, *, roots: Sequence[PublicKey], threshold: int, now: datetime, at_least: int = 0) -> Trust:
    """The trust file, after everything about it has been checked.

    Args:
        data: the envelope's bytes.
        roots: the root keys that the reader trusts.
        threshold: how many different ones of them must have signed.
        now: the reader's clock, aware.
        at_least: the version that was seen before; an older one is refused. Of that very version the roots might have
            signed two: whoever keeps the file in force asks :func:`load_successor`, which refuses the second.

    Raises:
        EvidenceInvalid: not canonical, not signed as required, expired, older, or it makes no sense.
        InvalidInput: a threshold that these roots cannot meet.
    """
    if not 0 < threshold <= len({key.keyid for key in roots}):
        raise InvalidInput(f"a threshold of {threshold} of {len(roots)} root keys", expected="from 1 to all of them")
    trust = read_unverified_trust(data)
    signed_by = _verified(data, trust, roots)
    able = {key.keyid for key in roots} & signed_by
    if not len(able) >= threshold:
        raise _too_few("root keys that you gave", len(able), threshold)
    _check(trust, signed_by, now)
    if not trust.version >= at_least:
        raise EvidenceInvalid(
            f"the trust file has version {trust.version}",
            expected=f"version {at_least} or later: that one was seen already",
            next_step="an older trust file must never come back; ask whoever keeps it",
        )
    return trust


def load_successor(data: bytes, previous: Trust, *, now: datetime) -> Trust:
    """A trust file that replaces ``previous``: signed by the threshold of both roots, and newer (or the very same).

    Raises:
        EvidenceInvalid: as :func:`load_trust`, or of the same version as ``previous`` and different.
    """
    trust = read_unverified_trust(data)
    signed_by = _verified(data, trust, previous.public_keys(previous.root.keys))
    persons = previous.persons_of(tuple(key for key in previous.root.keys if key in signed_by))
    if not len(persons) >= previous.root.threshold:
        raise _too_few(f"persons of version {previous.version}'s root", len(persons), previous.root.threshold)
    _check(trust, signed_by, now)
    if not (trust.version > previous.version or trust == previous):
        raise EvidenceInvalid(
            f"the trust file has version {trust.version}",
            expected=f"a version above {previous.version}, which is in force",
            next_step="raise 'version' and have the roots sign again",
        )
    return trust


def read_unverified_trust(data: bytes) -> Trust:
    """What the envelope says, WITHOUT looking at any signature: for showing it, and for signing it.

    Raises:
        EvidenceInvalid: not a canonical envelope around a canonical trust file.
    """
    payload = unverified_payload(data, payload_type=TRUST_TYPE)
    try:
        trust = Trust.model_validate_json(payload)
        same = canonical(trust) == payload
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise EvidenceInvalid(f"this is not a trust file: {where}: {first['msg']}") from error
    except ValueError as error:  # text that is no Unicode
        raise EvidenceInvalid(f"this is not a trust file: {error}") from error
    if not same:
        raise EvidenceInvalid("the trust file is not in its canonical form", expected="RFC 8785 bytes")
    return trust


def sign_trust(trust: Trust, *private_keys: PrivateKey) -> bytes:
    """The envelope; a file that makes no sense is not signed.

    Raises:
        InvalidInput: it makes no sense; every problem is named.
    """
    found = problems(trust)
    if found:
        raise InvalidInput("\n".join(str(problem) for problem in found), expected="a trust file that makes sense")
    return sign(canonical(trust), *private_keys, payload_type=TRUST_TYPE)


def add_trust_signature(data: bytes, private_key: PrivateKey) -> bytes:
    """The same file with one signature more.

    Raises:
        EvidenceInvalid: not a trust file, or it makes no sense.
    """
    _make_sense(read_unverified_trust(data))
    return add_signature(data, private_key, payload_type=TRUST_TYPE)


def trust_signers(data: bytes) -> tuple[str, ...]:
    """The key ids on the envelope, sorted; says nothing about whether they verify."""
    return signers(data, payload_type=TRUST_TYPE)


def _verified(data: bytes, trust: Trust, trusted: Sequence[PublicKey]) -> set[str]:
    """Who signed: every signature is by a key that was trusted before, or by one of the root that the file names."""
    try:
        own = trust.public_keys((*trust.root.keys, *trust.root.previous))
    except InvalidInput as error:
        raise EvidenceInvalid(error.got, expected=error.expected) from error
    verify(data, (*trusted, *own), payload_type=TRUST_TYPE)
    return set(trust_signers(data))


def _check(trust: Trust, signed_by: set[str], now: datetime) -> None:
    _make_sense(trust)
    persons = trust.persons_of(tuple(key for key in trust.root.keys if key in signed_by))
    if not len(persons) >= trust.root.threshold:
        raise _too_few("persons of its own root", len(persons), trust.root.threshold)
    if expired(trust.expires, now):
        raise EvidenceInvalid(
            f"the trust file expired at {trust.expires}",
            expected=f"one that is valid at {now}",
            next_step="raise 'version' and 'expires' and have the roots sign again",
        )
    if not trust.issued <= now + CLOCKS_DIFFER:
        raise EvidenceInvalid(
            f"the trust file was issued at {trust.issued}, which is still to come",
            expected=f"a time before {now}",
            next_step="compare the clocks of this machine and of the signer's",
        )


def _make_sense(trust: Trust) -> None:
    found = problems(trust)
    if found:
        raise EvidenceInvalid(
            "the trust file makes no sense:\n" + "\n".join(f"  {problem}" for problem in found),
            next_step="mend it and have the roots sign again",
        )


def _too_few(whose: str, found: int, threshold: int) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the trust file is signed by {found} of the {whose}",
        expected=f"{threshold} of them",
        next_step="guardrail trust sign FILE --key ... for each that is missing",
    )
