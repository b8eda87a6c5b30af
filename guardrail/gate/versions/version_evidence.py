"""What a version in the database holds, as the ledger knows it: told by its sealed place, never by its number.

A number starts again where rows are lost: a database restored from an older dump, a model that was deleted and
came back. Its place names every byte of the adapter and its evidence, and the ledger says what was sealed there.
Not covered: whether the bytes are still there (``gate/sealed/tree.py`` hashes them), where an alias stands
(``reconcile.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardrail.errors import EvidenceInvalid
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.ledger_drafts import Kept
from guardrail.registry.mlflow.tags import ADAPTER, EVIDENCE, MODEL_ID
from guardrail.registry.read.reader import SEALED_SOURCE


def is_sealed(version: Any) -> bool:
    """Whether its files lie where this server seals; those of a version from before the model was guarded do not."""
    return SEALED_SOURCE.fullmatch(str(version.source)) is not None


def held(version: Any, state: LedgerState) -> Admitted:
    """The evidence that a stored version holds: admitted for its model, with the tags of that, under a free number.

    Raises:
        EvidenceInvalid: the first thing in which the database differs from the ledger.
    """
    found = sealed_evidence(version, state)
    for wrong in differences(version, found, state):
        raise EvidenceInvalid(
            f"{version.name} version {version.version} is not what the ledger says: {wrong}",
            expected="what was admitted and promoted, unchanged",
            next_step="guardrail registry doctor names every difference; guardrail promote again, from the same run",
        )
    return found


def sealed_evidence(version: Any, state: LedgerState) -> Admitted:
    """The evidence that was admitted with the files that a version points to.

    Raises:
        EvidenceInvalid: none was, for this model.
    """
    match = SEALED_SOURCE.fullmatch(str(version.source))
    evidence = state.sealed.get((str(version.name), match[1])) if match else None
    if evidence is None:
        raise EvidenceInvalid(
            f"the ledger never admitted what {version.name} version {version.version} holds ({version.source})",
            expected="a version that this server admitted",
            next_step="promote the adapter with `guardrail promote`",
        )
    return state.admitted[evidence]


def differences(version: Any, found: Admitted, state: LedgerState) -> Iterator[str]:
    """In what a version that holds admitted evidence is not as the server made it."""
    given = state.named.get((found.model, str(version.version)))
    if given is not None and not given.holds(found):
        yield (
            f"it holds the evidence {found.evidence}; entry {given.entry} moved an alias to that number "
            f"for {given.evidence or given.manifest}"
        )
    expected = {EVIDENCE: found.evidence, ADAPTER: found.manifest, MODEL_ID: Kept.of(found).model_id}
    for tag, value in expected.items():
        if version.tags.get(tag) != value:
            yield f"its tag {tag} is {version.tags.get(tag)!a}, the ledger says {value}"
