"""Which version an alias stands at, also where a gated server no longer resolves it: expired, or revoked.

Not covered: whether the alias stands where the ledger says (``verify_trusted.py``).
"""

from __future__ import annotations

from guardrail.evidence.ledger.entries import Entry
from guardrail.registry.audit.ledger_reader import History, unverified_history
from guardrail.registry.gate.client import GateClient
from guardrail.registry.mlflow.tags import ADAPTER, EVIDENCE
from guardrail.registry.read.reader import Reader, Spec, StoredVersion, UnresolvedError


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
    """The version that an alias was moved to last, if it still holds what it was moved to: a number may come again.

    Raises:
        InvalidInput: there is no such version any more.
        EvidenceInvalid: it holds something else, or the ledger never moved the alias.
    """
    moved = history.moved(spec.name, spec.alias) if spec.alias else None
    if moved is None:
        raise refused
    stored = source.version(Spec(name=spec.name, version=moved.version))
    if not is_moved_to(stored, moved):
        raise refused
    return stored


def is_moved_to(stored: StoredVersion, moved: Entry) -> bool:
    """Whether a version says that it holds what an entry moved an alias to: number, adapter and evidence.

    Rollbacks of older ledgers do not name the evidence.
    """
    said = {EVIDENCE: moved.evidence or "", ADAPTER: moved.subject}
    return stored.version == moved.version and all(
        not value or stored.tags.get(tag) == value for tag, value in said.items()
    )
