"""What a revocation takes away, for whoever is about to sign it: the versions that hold the adapter, and the aliases.

Read off the ledger as the server tells it. Not covered: whether that is true (nothing is decided here), and versions
that no alias ever moved to, which the ledger does not number.
"""

from __future__ import annotations

from guardrail.evidence.ledger.entries import Entry
from guardrail.records import Frozen
from guardrail.registry.audit.ledger_reader import History


class Affected(Frozen):
    """One admission of the adapter: ``versions`` are the numbers that it ever had there (none: it waits, or was
    refused), ``stands`` the one that the alias points at now, if it does."""

    model: str
    alias: str
    versions: tuple[str, ...]
    stands: str


def affected(manifest: str, history: History) -> tuple[Affected, ...]:
    """Everything that the ledger says of the adapter with this manifest, in the order of its admissions."""
    return tuple(_affected(entry, history) for entry in history.admissions(manifest))


def _affected(entry: Entry, history: History) -> Affected:
    moved = history.moved(entry.model, entry.alias)
    held = moved is not None and moved.subject == entry.subject and moved.evidence in (None, entry.evidence)
    return Affected(
        model=entry.model,
        alias=entry.alias,
        versions=history.numbers(entry.evidence or ""),
        stands=moved.version if moved is not None and held else "",
    )
