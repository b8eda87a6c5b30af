"""Orders that a person gives a registry, written for exactly the situation that the server is in.

A rollback names where the alias points now and the ledger's last entry, so it is good for that situation and for no
other; a revocation names an adapter. Not covered: signing (the command's) and carrying them out (the server).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence import bundle
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.evidence.envelope import LARGEST, unverified_payload
from guardrail.evidence.statements import decision_statement
from guardrail.evidence.statements.orders import Revocation, Rollback
from guardrail.records import Decision
from guardrail.registry.audit.where_alias_stands import standing
from guardrail.registry.gate.client import GateClient
from guardrail.registry.orders.approvals import ledger_head
from guardrail.registry.read.reader import Reader, Spec, StoredVersion, download, parse_spec
from guardrail.registry.verify.verify import workplace

DIGEST = re.compile(r"[0-9a-f]{64}")


def rollback(
    gate_uri: str, source: Reader, spec: Spec, to_version: str, *, reason: str, now: datetime, lasts: timedelta
) -> Rollback:
    """The order that moves the alias of ``spec`` to ``to_version``, on the server at ``gate_uri``.

    Raises:
        InvalidInput: the alias stands there already, or there is no such version.
        EvidenceInvalid: the version's files are not what its evidence says.
    """
    if spec.alias is None:
        raise InvalidInput(f"{spec} is no alias", expected="NAME@ALIAS")
    # before the alias is looked up: what moves it in between spoils the order
    ledger = ledger_head(GateClient(gate_uri))
    current = standing(source, spec, gate_uri).version
    if current == to_version:
        raise InvalidInput(f"{spec} points at version {current} already", expected="an earlier version")
    target = source.version(Spec(name=spec.name, version=to_version))
    return Rollback(
        model=spec.name,
        alias=spec.alias,
        from_version=current,
        to_version=to_version,
        manifest=stored_decision(source, target).manifest,
        ledger=ledger,
        reason=reason,
        not_before=now,
        expires=now + lasts,
    )


def revocation(gate_uri: str, source: Reader, what: str, *, reason: str, now: datetime, lasts: timedelta) -> Revocation:
    """The order that puts an adapter out: by the digest of its manifest, or by the version that holds it.

    Raises:
        InvalidInput: neither, or no such version.
        EvidenceInvalid: the version's files are not what its evidence says.
    """
    digest = what
    if DIGEST.fullmatch(what) is None:
        digest = stored_decision(source, standing(source, parse_spec(what), gate_uri)).manifest
    return Revocation(manifest=digest, reason=reason, not_before=now, expires=now + lasts)


def stored_decision(source: Reader, stored: StoredVersion) -> Decision:
    """The decision that lies beside a version's files; its signature is NOT looked at, but it is about these files.

    Raises:
        EvidenceInvalid: there is none, or it is about other files.
    """
    with workplace() as place:
        download(source, stored.root, place)
        files = manifest(place)
        envelope = place / bundle.EVIDENCE / bundle.ENVELOPE
        if not envelope.is_file() or envelope.stat().st_size > LARGEST:
            raise EvidenceInvalid(
                f"version {stored.version} carries no decision", expected=f"{bundle.EVIDENCE}/{bundle.ENVELOPE}"
            )
        decision = decision_statement.parse(unverified_payload(envelope.read_bytes())).predicate.decision
    adapter = tuple(entry for entry in files if not entry.path.startswith(f"{bundle.EVIDENCE}/"))
    if manifest_digest(adapter) != decision.manifest:
        raise EvidenceInvalid(
            f"version {stored.version} holds the adapter {manifest_digest(adapter)}",
            expected=f"{decision.manifest}, as decided on",
            next_step="its files were changed: revoke by digest, and look at the server's disk",
        )
    return decision
