"""Every adapter that was revoked, and the versions that hold it, as a gated server's ledger says.

Not covered: versions that no alias ever moved to (the ledger does not number them; their tags say that they are
revoked), and proof: who ordered it is signed in the statement that `guardrail registry history` shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from guardrail.evidence.ledger.entries import Entry
from guardrail.records import Count, Frozen, Sha256, Utc
from guardrail.registry.audit.ledger_reader import History


class Revoked(Frozen):
    """One admission of a revoked adapter; without a model where it was never admitted here.

    ``versions`` are the numbers under which an alias was ever moved to it, ``reason`` who ordered it and why.
    """

    model: str
    alias: str
    versions: tuple[str, ...]
    adapter: Sha256
    evidence: Sha256 | None
    revoked: Utc
    entry: Count
    reason: str


class RevokedList(Frozen):
    """All of them, oldest revocation first. ``ledger_checked`` says whether the ledger's signatures were looked at."""

    revoked: tuple[Revoked, ...]
    entries: Count
    ledger_checked: bool


def revoked(history: History) -> RevokedList:
    """What the ledger says was revoked."""
    return RevokedList(
        revoked=tuple(row for entry in history.revocations() for row in _rows(entry, history)),
        entries=len(history.entries),
        ledger_checked=history.checked,
    )


def _rows(entry: Entry, history: History) -> Iterator[Revoked]:
    admitted = history.admissions(entry.subject)
    for found in admitted:
        yield _row(entry, found.model, found.alias, found.evidence, history.numbers(found.evidence or ""))
    if not admitted:
        yield _row(entry, "", "", None, ())


def _row(entry: Entry, model: str, alias: str, evidence: str | None, versions: tuple[str, ...]) -> Revoked:
    return Revoked(
        model=model,
        alias=alias,
        versions=versions,
        adapter=entry.subject,
        evidence=evidence,
        revoked=entry.time,
        entry=entry.number,
        reason=entry.note,
    )
