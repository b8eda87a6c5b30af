"""Signed trust files for tests: a root key, a key that decides, models under the test policy of registry_bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from registry_bundles import POLICY

from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.trust.trust_file import (
    TRUST_TYPE,
    GuardedModel,
    ProtectedAlias,
    PublicKeyEntry,
    Roles,
    Root,
    Trust,
)


@dataclass(frozen=True)
class Person:
    """A key pair on disk and loaded."""

    name: str
    private: key_pairs.PrivateKey
    private_file: Path
    public_file: Path

    @property
    def public(self) -> key_pairs.PublicKey:
        return key_pairs.load_public(self.public_file)

    @property
    def entry(self) -> PublicKeyEntry:
        return PublicKeyEntry(person=self.name, pem=self.public_file.read_text())


def person(directory: Path, name: str) -> Person:
    """A new person with a new key."""
    key_pairs.init(directory, name)
    return acquainted(directory, name)


def acquainted(directory: Path, name: str) -> Person:
    """A person whose key lies there already."""
    private = directory / f"{name}.key"
    return Person(name, key_pairs.load_private(private), private, private.with_suffix(".pub"))


def policy_digest(model: str, alias: str = "production") -> str:
    """The digest of the policy that ``registry_bundles.sealed`` decides under."""
    return sha256(POLICY.format(model=model, alias=alias).encode())


def guarded_model(name: str, approvals: int = 0) -> GuardedModel:
    """A model whose alias ``production`` is protected."""
    return GuardedModel(
        name=name, aliases=(ProtectedAlias(alias="production", policy=policy_digest(name), approvals=approvals),)
    )


def trust(
    root: Person,
    decider: Person,
    models: Sequence[GuardedModel],
    *,
    version: int = 1,
    now: datetime | None = None,
    days: float = 30,
    approvers: Sequence[Person] = (),
    server: Person | None = None,
) -> Trust:
    """What the trust file says."""
    server = server or decider
    issued = (now or datetime.now(UTC)) - timedelta(hours=1)
    return Trust(
        version=version,
        issued=issued,
        expires=issued + timedelta(days=days),
        root=Root(threshold=1, keys=(root.public.keyid,)),
        keys={person.public.keyid: person.entry for person in (root, decider, server, *approvers)},
        roles=Roles(
            data=(root.public.keyid,),
            train=(root.public.keyid,),
            evaluate=(decider.public.keyid,),
            decide=(decider.public.keyid,),
            approve=tuple(approver.public.keyid for approver in approvers),
            server=(server.public.keyid,),
        ),
        models=tuple(models),
    )


def signed(value: Trust, *roots: Person) -> bytes:
    """The stored form."""
    return sign(canonical(value), *(root.private for root in roots), payload_type=TRUST_TYPE)
