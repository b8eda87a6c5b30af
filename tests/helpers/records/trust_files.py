"""Trust files for tests: one cast of persons with real keys, and how to change one thing of it. Not a test file.

Not covered: the written form (YAML); what is made here is the signed one.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey
from guardrail.evidence.trust.trust_file import (
    TRUST_TYPE,
    GuardedModel,
    ProtectedAlias,
    PublicKeyEntry,
    Roles,
    Root,
    Trust,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ROOTS = ("ana", "ben", "cem")
POLICY = sha256(b"the pinned policy")
MODEL, ALIAS = "guarded", "production"


@cache
def key(name: str, kind: key_pairs.KeyType = "ed25519") -> PrivateKey:
    """The private key of a person of the cast, made once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        return key_pairs.load_private(key_pairs.init(Path(folder), kind=kind).private)


def public(*names: str) -> list[PublicKey]:
    """Public keys by name."""
    return [key(name).public_key for name in names]


def ids(*names: str) -> tuple[str, ...]:
    """Key ids by name."""
    return tuple(key(name).public_key.keyid for name in names)


def entries(**persons: str) -> dict[str, PublicKeyEntry]:
    """Key entries: the key of that name belongs to that person."""
    return {
        ids(name)[0]: PublicKeyEntry(person=person, pem=key_pairs.public_pem(key(name).public_key))
        for name, person in persons.items()
    }


CAST = {
    "ana": "Ana Ruiz",
    "ben": "Ben Otieno",
    "cem": "Cem Aksoy",
    "train": "training pipeline",
    "evaluate": "evaluation job",
    "server": "registry server",
}


def trust(**changes: Any) -> Trust:
    """A trust file that makes sense, unless ``changes`` (fields of Trust) make it otherwise; nothing is validated."""
    good = Trust(
        version=3,
        issued=NOW - timedelta(days=1),
        expires=NOW + timedelta(days=90),
        root=Root(threshold=2, keys=ids(*ROOTS)),
        keys=entries(**CAST),
        roles=Roles(
            data=ids("train"),
            train=ids("train"),
            evaluate=ids("evaluate"),
            decide=ids("server"),
            approve=ids("ana", "ben"),
            server=ids("server"),
        ),
        models=(guarded(),),
    )
    return good.model_copy(update=changes)


def guarded(name: str = MODEL, *, approvals: int = 1, alias: str = ALIAS) -> GuardedModel:
    """A guarded model with one alias under :data:`POLICY`."""
    return GuardedModel(name=name, aliases=(ProtectedAlias(alias=alias, policy=POLICY, approvals=approvals),))


def signed(value: Trust, *names: str) -> bytes:
    """The envelope, signed by these persons, however little sense the file makes."""
    return sign(canonical(value), *(key(name) for name in names or ("ana", "ben")), payload_type=TRUST_TYPE)
