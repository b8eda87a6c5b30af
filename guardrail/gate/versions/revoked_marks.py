"""A revoked version says so in stock MLflow, too: its verdict tag, a tag with when and why, its description.

The ledger alone decides; these are for people and for tools that read nothing but the registry. The entry comes first,
the marks after it, and the same marks are written again wherever a crash left them out.
Not covered: models that are no longer guarded, and the version's status, which stays READY.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import GuardedModel
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.versions.mlflow_tables import Beneath
from guardrail.gate.versions.version_evidence import sealed_evidence
from guardrail.registry.mlflow.tags import LONGEST, REVOKED, VERDICT, WITHDRAWN
from guardrail.registry.read.reader import sealed_uri


def marks(manifest: str, state: LedgerState) -> dict[str, str]:
    """The tags of a version whose adapter was revoked; none where it was not."""
    if manifest not in state.revoked:
        return {}
    since = state.revoked_at[manifest].isoformat(timespec="seconds")
    return {VERDICT: WITHDRAWN, REVOKED: f"{since} {state.revoked[manifest]}"[:LONGEST]}


def description(manifest: str, state: LedgerState) -> str | None:
    """What a version's description says; nothing where its adapter was not revoked."""
    told = marks(manifest, state).get(REVOKED)
    return f"REVOKED: never load this version. Revoked at {told}"[:LONGEST] if told else None


def unmarked(version: Any, found: Admitted, state: LedgerState) -> str:
    """How the marks of a version differ from what the ledger says; empty where they do not."""
    wanted = marks(found.manifest, state)
    if wanted and any(version.tags.get(key) != value for key, value in wanted.items()):
        return "its adapter was revoked, and its tags do not say so"
    if not wanted and REVOKED in version.tags:
        return "its tags say that its adapter was revoked, and the ledger does not"
    if (version.description or None) != description(found.manifest, state):
        return "its description is not the server's"
    return ""


def mark_all(beneath: Beneath, state: LedgerState, models: Iterable[GuardedModel], manifest: str = "") -> int:
    """Mark every version of guarded models whose adapter was revoked (or only this one's); how many were not yet."""
    marked = 0
    for guarded in models:
        for version in list(_versions(beneath, state, guarded.name, manifest)):
            try:
                found = sealed_evidence(version, state)
            except EvidenceInvalid:
                continue
            if manifest not in ("", found.manifest) or found.manifest not in state.revoked:
                continue
            if unmarked(version, found, state):
                said = description(found.manifest, state)
                beneath.mark(guarded.name, str(version.version), marks(found.manifest, state), said)
                marked += 1
    return marked


def _versions(beneath: Beneath, state: LedgerState, name: str, manifest: str) -> Iterator[Any]:
    """A model's versions of one adapter, told by where the ledger sealed it, or all of them.

    Anybody may hand in a revocation again, so that must not cost a look at every version.
    """
    if not manifest:
        yield from beneath.versions(name)
        return
    for (model, place), evidence in list(state.sealed.items()):
        if model == name and state.admitted[evidence].manifest == manifest:
            yield from beneath.versions_at(name, sealed_uri(place))
