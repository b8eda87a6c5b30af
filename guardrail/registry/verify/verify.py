"""Verification: does the registry hold exactly what was signed, for this name, still valid, for reasons that hold?

Needs the public key only. Downloads every file of the version and believes nothing but the signature: not the tags,
not the description, not the stored verdict. Not covered: whether the registry changes its mind a moment later (load
what you verified: ``registry/read/pull.py``), and who may hold the private key (``registry/audit/verify_trusted.py``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.policy.bases import pins_base
from guardrail.records import Frozen, Sha256, Verdict
from guardrail.registry.http.address import require_one_server
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.mlflow.tags import MODEL_ID, PREFIX, REVOKED, tags
from guardrail.registry.read.local_reader import LocalReader
from guardrail.registry.read.reader import Reader, Spec, StoredVersion, download, parse_spec
from guardrail.registry.read.rest_reader import RestReader
from guardrail.registry.verify.evidence_checks import Check, Examined, admissible, examine


class Verification(Frozen):
    """A version that verified: what it is, and what was checked, in order.

    ``base_pinned`` says whether its policy (or, under a trust file, that file) pins the base.
    """

    spec: str
    model: str
    version: str
    model_id: str
    verdict: Verdict
    evidence_sha256: Sha256
    adapter_sha256: Sha256
    policy: str
    policy_sha256: Sha256
    base: str
    base_sha256: Sha256
    base_pinned: bool
    signed_by: tuple[str, ...]
    valid_until: datetime
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Verified:
    """A version that verified, and what its evidence says."""

    stored: StoredVersion
    examined: Examined
    record: Verification


def verify(
    spec: str,
    *,
    tracking_uri: str,
    public_keys: Sequence[PublicKey],
    now: datetime,
    base_digest: str | None = None,
) -> Verification:
    """Check what the registry holds under ``spec`` (``NAME/VERSION`` or ``NAME@ALIAS``).

    Args:
        spec: which version.
        tracking_uri: the MLflow server (read over REST) or store.
        public_keys: the keys that are trusted to sign.
        now: the time at which the evidence must be valid.
        base_digest: the digest of the base that the adapter will be loaded on, where it is known.

    Raises:
        EvidenceInvalid: the first check that fails.
        InvalidInput: no such version, or no key.
        ServiceUnavailable: the registry does not answer.
    """
    wanted = parse_spec(spec)
    if not public_keys:
        raise InvalidInput("no public key was given", expected="the key of whoever may promote")
    with reader(tracking_uri) as source:
        return verify_with(source, wanted, public_keys, now, base_digest)


@contextmanager
def reader(tracking_uri: str) -> Iterator[Reader]:
    """REST for a server, MLflow itself for anything else."""
    if tracking_uri.startswith(("http://", "https://")):
        yield RestReader(tracking_uri)
    else:
        require_one_server(tracking_uri)
        with client(tracking_uri, write=False) as opened:
            yield LocalReader(opened)


def verify_with(
    source: Reader, spec: Spec, public_keys: Sequence[PublicKey], now: datetime, base_digest: str | None = None
) -> Verification:
    """The same over an open reader."""
    with workplace() as directory:
        return verify_at(directory, source, spec, public_keys, now, base_digest).record


def verify_at(
    directory: Path,
    source: Reader,
    spec: Spec,
    public_keys: Sequence[PublicKey],
    now: datetime,
    base_digest: str | None = None,
) -> Verified:
    """The same, over files that stay in ``directory``, which is empty before."""
    stored = source.version(spec)
    return judge(spec, stored, fetched(directory, source, stored, public_keys), now, base_digest)


def judge(
    spec: Spec, stored: StoredVersion, examined: Examined, now: datetime, base_digest: str | None = None
) -> Verified:
    """Whether what was fetched may be used under ``spec`` now.

    Raises:
        EvidenceInvalid: the first check that fails.
    """
    checks = (
        *examined.checks,
        admissible(examined.decision, now, examined.valid_until),
        _passed("target", _target(spec, stored, examined)),
        _passed("base", require_compared(examined, base_digest)),
        _passed("tags", _tags(stored, examined)),
    )
    return Verified(stored, examined, _verification(spec, stored, examined, checks))


def require_ours(spec: Spec, stored: StoredVersion, examined: Examined) -> None:
    """What a registry says of a version is what it must say where it carries this evidence; no file is read.

    Raises:
        EvidenceInvalid: it is not.
    """
    _target(spec, stored, examined)
    _tags(stored, examined)


def fetched(directory: Path, source: Reader, stored: StoredVersion, public_keys: Sequence[PublicKey]) -> Examined:
    """Every file of the version, and what its evidence says: whole and signed, but perhaps expired or for another name.

    Raises:
        EvidenceInvalid: the evidence does not hold together.
    """
    download(source, stored.root, directory)
    return examine(directory, public_keys)


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty private directory.

    Raises:
        ServiceUnavailable: the disk is full or read-only.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="guardrail-") as name:
            yield Path(name)
    except OSError as error:
        raise ServiceUnavailable(
            f"cannot write temporary files: {error.strerror}", next_step="free some space, or set TMPDIR"
        ) from error


def _passed(name: str, why: str) -> Check:
    return Check(name=name, why=why)


def _target(spec: Spec, stored: StoredVersion, examined: Examined) -> str:
    """A copied or renamed model carries evidence that was made for another name."""
    decision = examined.decision
    if not stored.name == spec.name == decision.model or (spec.version or stored.version) != stored.version:
        raise EvidenceInvalid(
            f"the evidence of {stored.name} version {stored.version} was made for the model {decision.model!r}",
            expected=f"evidence for {spec.name!r}",
        )
    if spec.alias is not None and spec.alias != decision.alias:
        raise EvidenceInvalid(
            f"the evidence was made for the alias {decision.alias!r}", expected=f"evidence for {spec.alias!r}"
        )
    if stored.status != "READY":
        raise EvidenceInvalid(f"the version is {stored.status or 'in no state'}", expected="READY")
    return f"made for {decision.model}@{decision.alias}"


def require_compared(examined: Examined, base_digest: str | None) -> str:
    """What to say of the base that the adapter was evaluated on.

    Raises:
        EvidenceInvalid: it is not the one with ``base_digest``.
    """
    base = examined.decision.base
    if base_digest is not None and base_digest != base.digest:
        raise EvidenceInvalid(f"the adapter was evaluated on the base {base.digest}", expected=base_digest)
    by = "pinned by the policy" if pins_base(examined.decision) else "NOT PINNED by the policy"
    compared = "" if base_digest else " (not compared with yours)"
    return f"evaluated on {base.name}, sha256 {base.digest}, {by}{compared}"


def _tags(stored: StoredVersion, examined: Examined) -> str:
    if stored.tags.get(REVOKED):
        raise EvidenceInvalid(
            f"the adapter was revoked: {stored.tags[REVOKED]!a}",
            expected="an adapter that is not revoked",
            next_step="promote another one",
        )
    expected = tags(examined.decision, examined.evidence_sha256, examined.signed_by) | {MODEL_ID: stored.model_id}
    _equal_tags({key: value for key, value in stored.tags.items() if key.startswith(PREFIX)}, expected)
    return f"{len(expected)} {PREFIX}* tags, as the envelope says"


def _equal_tags(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for key in sorted(set(found) | set(expected)):
        if found.get(key) != expected.get(key):
            raise EvidenceInvalid(
                f"the version's tag {key} is {found.get(key, 'missing')!r}",
                expected=f"{expected.get(key, 'no such tag')!r}, as the envelope says",
            )


def _verification(spec: Spec, stored: StoredVersion, examined: Examined, checks: tuple[Check, ...]) -> Verification:
    decision = examined.decision
    return Verification(
        spec=str(spec),
        model=stored.name,
        version=stored.version,
        model_id=stored.model_id,
        verdict=decision.verdict,
        evidence_sha256=examined.evidence_sha256,
        adapter_sha256=decision.manifest,
        policy=decision.policy_name,
        policy_sha256=decision.policy,
        base=decision.base.name,
        base_sha256=decision.base.digest,
        base_pinned=pins_base(decision),
        signed_by=examined.signed_by,
        valid_until=examined.valid_until,
        checks=checks,
    )
