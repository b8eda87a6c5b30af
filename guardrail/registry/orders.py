"""Orders that a person gives a registry, written for exactly the situation that the server is in.

A rollback names where the alias points now and the ledger's last entry, so it is good for that situation and for no
other; a revocation names an adapter. Not covered: signing (the command's) and carrying them out (the server).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence import bundle, statement
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.evidence.envelope import LARGEST, unverified_payload
from guardrail.evidence.orders import Revocation, Rollback
from guardrail.records import Decision
from guardrail.registry.approvals import ledger_head
from guardrail.registry.gate_client import GateClient
from guardrail.registry.reader import Reader, Spec, download, parse_spec
from guardrail.registry.verify import workplace

DIGEST = re.compile(r"[0-9a-f]{64}")


def rollback(
    gate: GateClient, source: Reader, spec: Spec, to_version: str, *, reason: str, now: datetime, lasts: timedelta
) -> Rollback:
    """The order that moves the alias of ``spec`` to ``to_version``.

    Raises:
        InvalidInput: the alias stands there already, or there is no such version.
        EvidenceInvalid: the version's files are not what its evidence says.
    """
    if spec.alias is None:
        raise InvalidInput(f"{spec} is no alias", expected="NAME@ALIAS")
    ledger = ledger_head(gate)  # before the alias is looked up: what moves it in between spoils the order
    current = source.version(spec).version
    if current == to_version:
        raise InvalidInput(f"{spec} points at version {current} already", expected="an earlier version")
    return Rollback(
        model=spec.name, alias=spec.alias, from_version=current, to_version=to_version,
        manifest=stored_decision(source, Spec(name=spec.name, version=to_version)).manifest, ledger=ledger,
        reason=reason, not_before=now, expires=now + lasts,
    )  # fmt: skip


def revocation(source: Reader, what: str, *, reason: str, now: datetime, lasts: timedelta) -> Revocation:
    """The order that puts an adapter out: by the digest of its manifest, or by the version that holds it.

    Raises:
        InvalidInput: neither, or no such version.
        EvidenceInvalid: the version's files are not what its evidence says.
    """
    named = DIGEST.fullmatch(what) is not None
    manifest_sha256 = what if named else stored_decision(source, parse_spec(what)).manifest
    return Revocation(manifest=manifest_sha256, reason=reason, not_before=now, expires=now + lasts)


def stored_decision(source: Reader, spec: Spec) -> Decision:
    """The decision that lies beside a version's files; its signature is NOT looked at, but it is about these files.

    Raises:
        EvidenceInvalid: there is none, or it is about other files.
    """
    with workplace() as place:
        download(source, source.version(spec).root, place)
        files = manifest(place)
        envelope = place / bundle.EVIDENCE / bundle.ENVELOPE
        if not envelope.is_file() or envelope.stat().st_size > LARGEST:
            raise EvidenceInvalid(f"{spec} carries no decision", expected=f"{bundle.EVIDENCE}/{bundle.ENVELOPE}")
        decision = statement.parse(unverified_payload(envelope.read_bytes())).predicate.decision
    adapter = tuple(entry for entry in files if not entry.path.startswith(f"{bundle.EVIDENCE}/"))
    if manifest_digest(adapter) != decision.manifest:
        raise EvidenceInvalid(
            f"{spec} holds the adapter {manifest_digest(adapter)}", expected=f"{decision.manifest}, as decided on",
            next_step="its files were changed: revoke by digest, and look at the server's disk",
        )  # fmt: skip
    return decision
