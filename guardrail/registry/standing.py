"""Which version an alias stands at, also where a gated server no longer resolves it: expired, or revoked.

Not covered: whether the alias stands where the ledger says (``verify_trusted.py``).
"""

from __future__ import annotations

from guardrail.registry.gate_client import GateClient
from guardrail.registry.history import History, unverified_history
from guardrail.registry.reader import Reader, Spec, StoredVersion, UnresolvedError


def standing(source: Reader, spec: Spec, gate_uri: str) -> StoredVersion:
    """The version that ``spec`` names; of an alias that the server refuses to resolve, where its ledger moved it last.

    Raises:
        InvalidInput: no such version.
    """
    try:
        return source.version(spec)
    except UnresolvedError as error:
        return unresolved(source, spec, unverified_history(GateClient(gate_uri)), error)


def unresolved(source: Reader, spec: Spec, history: History, refused: UnresolvedError) -> StoredVersion:
    """The version that an alias was moved to last, by its number."""
    moved = history.moved(spec.name, spec.alias) if spec.alias else None
    if moved is None:
        raise refused
    return source.version(Spec(name=spec.name, version=moved.version))
