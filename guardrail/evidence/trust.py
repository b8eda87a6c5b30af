"""The trust file: who may say what, which models are guarded, under which policies.

A DSSE envelope whose payload is the canonical JSON of :class:`Trust`, signed by k of n root keys that are known from
elsewhere. Names of models are compared folded (NFKC, then casefold), because some databases do not tell case apart.
Not covered: rotation of the root keys, revocation, and keeping the highest version that was ever accepted (whoever
loads passes it as ``at_least``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import AwareDatetime, Field, ValidationError
from securesystemslib.signer import SSlibKey

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import verify
from guardrail.evidence.keys import PublicKey, key_id
from guardrail.records import Frozen, Sha256

TRUST_TYPE = "application/vnd.mlflow-guardrail.trust+json"
KeyId = Sha256
Role = Literal["data", "train", "evaluate", "decide", "approve"]


class PublicKeyEntry(Frozen):
    """A key and the person who holds it."""

    person: str
    pem: str


class ProtectedAlias(Frozen):
    """An alias that moves only on evidence under the policy with this digest."""

    alias: str
    policy: Sha256
    approvals: Annotated[int, Field(ge=0)] = 0
    when_invalid: Literal["refuse", "warn"] = "refuse"


class GuardedModel(Frozen):
    """A registered model that the server guards."""

    name: str
    aliases: Annotated[tuple[ProtectedAlias, ...], Field(min_length=1)]


class Roles(Frozen):
    """Which keys may sign what."""

    data: tuple[KeyId, ...] = ()
    train: tuple[KeyId, ...] = ()
    evaluate: tuple[KeyId, ...] = ()
    decide: tuple[KeyId, ...] = ()
    approve: tuple[KeyId, ...] = ()


class Root(Frozen):
    """Who signs the next trust file."""

    threshold: Annotated[int, Field(ge=1)]
    keys: Annotated[tuple[KeyId, ...], Field(min_length=1)]


class Trust(Frozen):
    """What a trust file says."""

    schema_version: Literal[1] = 1
    version: Annotated[int, Field(ge=1)]
    issued: AwareDatetime
    expires: AwareDatetime
    root: Root
    keys: dict[KeyId, PublicKeyEntry]
    roles: Roles
    models: tuple[GuardedModel, ...]
    one_person_may_train_evaluate_and_approve: bool = False

    def guarded(self, name: str) -> GuardedModel | None:
        """The guarded model of this name, however it is spelt."""
        return next((model for model in self.models if _folded(model.name) == _folded(name)), None)

    def keys_of(self, role: Role) -> tuple[PublicKey, ...]:
        """The keys that may sign as ``role``."""
        ids: tuple[KeyId, ...] = getattr(self.roles, role)
        return tuple(_public(self.keys[key]) for key in ids)


def _folded(name: str) -> str:
    """The form in which names are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def load_trust(data: bytes, *, roots: Sequence[PublicKey], threshold: int, now: datetime, at_least: int = 0) -> Trust:
    """Read a trust file that ``threshold`` of the root keys have signed.

    Raises:
        EvidenceInvalid: not canonical, not signed as required, expired, older than ``at_least``, or it contradicts
            itself.
    """
    payload = verify(data, roots, threshold, payload_type=TRUST_TYPE)
    trust = _parse(payload)
    if not trust.issued <= now <= trust.expires:
        raise EvidenceInvalid(
            f"the trust file is valid from {trust.issued} to {trust.expires}",
            expected=f"one that is valid at {now}",
            next_step="have the holders of the root keys sign a new version",
        )
    if trust.version < at_least:
        raise EvidenceInvalid(
            f"the trust file has version {trust.version}", expected=f"at least {at_least}, which was accepted before"
        )
    _consistent(trust)
    return trust


def _parse(payload: bytes) -> Trust:
    try:
        trust = Trust.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise EvidenceInvalid(f"the trust file cannot be read: {where}: {first['msg']}") from error
    if canonical(trust) != payload:
        raise EvidenceInvalid("the trust file is not in its canonical form", expected="RFC 8785 bytes")
    return trust


def _consistent(trust: Trust) -> None:
    for key, entry in trust.keys.items():
        if _public(entry).keyid != key:
            raise EvidenceInvalid(f"the trust file's key {key} has another id: {_public(entry).keyid}")
    for role, ids in trust.roles:
        if unknown := sorted(set(ids) - set(trust.keys)):
            raise EvidenceInvalid(f"the trust file names no key {unknown[0]}", expected=f"a key for the role {role}")
    names = [_folded(model.name) for model in trust.models]
    if len(set(names)) != len(names):
        raise EvidenceInvalid("the trust file names a model twice", expected="names that differ beyond their case")
    if not trust.one_person_may_train_evaluate_and_approve:
        for role in ("evaluate", "approve"):
            if both := _persons(trust, "train") & _persons(trust, role):
                raise EvidenceInvalid(f"{sorted(both)[0]} may both train and {role}", expected="different persons")


def _persons(trust: Trust, role: str) -> set[str]:
    return {trust.keys[key].person for key in getattr(trust.roles, role)}


def _public(entry: PublicKeyEntry) -> PublicKey:
    try:
        key = load_pem_public_key(entry.pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceInvalid(f"the trust file's key of {entry.person!r} is no public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceInvalid(f"the trust file's key of {entry.person!r} is of another type", expected="Ed25519")
    return SSlibKey.from_crypto(key, keyid=key_id(key))
