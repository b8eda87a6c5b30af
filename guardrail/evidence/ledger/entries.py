"""What a ledger says: one entry for everything that was proposed, decided, approved, revoked or rolled back.

The types only; signing and checking are ``signed_ledger.py``'s.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from guardrail.records import Count, Frozen, Sha256, Utc

EntryKind = Literal[
    "proposal",
    "decision",
    "denial",
    "approval",
    "rejection",
    "promotion",
    "revocation",
    "rollback",
    "trust",
    "checkpoint",
]
"""``proposal``: a ticket was issued or, with a subject, bound to an adapter. ``decision``: evidence was admitted, which
spends the ticket's nonce. ``denial``: signed evidence was refused. ``promotion``: an alias moves to a version.
``trust``: a trust file came into force. ``checkpoint``: what the entries before it add up to
(``checkpoint.py``)."""
LONGEST_NOTE = 4000
LAST_NUMBER = 2**53 - 1
"""The largest integer of canonical JSON."""


Number = Annotated[int, Field(ge=1, le=LAST_NUMBER)]
Short = Annotated[str, StringConstraints(max_length=256)]


class Entry(Frozen):
    """One entry. ``previous`` is the SHA-256 of the envelope before, whole; ``time`` is in UTC.

    ``subject`` is the digest of the adapter's manifest, or of what a trust file or a checkpoint says; ``evidence`` that
    of the decision's envelope, ``statement`` that of the envelope that somebody handed in, ``nonce`` the ticket's,
    where there is one. Fields stand in the order of their names: so pydantic writes them as canonical JSON asks.
    """

    alias: Short = ""
    evidence: Sha256 | None = None
    kind: EntryKind
    model: Short = ""
    nonce: Short = ""
    note: Annotated[str, StringConstraints(max_length=LONGEST_NOTE)] = ""
    number: Number
    previous: Sha256
    schema_version: Literal[1] = 1
    statement: Sha256 | None = None
    subject: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    time: Utc
    version: Short = ""


class Head(Frozen):
    """Where a ledger ends: the last entry's number and its envelope's digest, and the latest time of all entries."""

    digest: Sha256
    number: Number
    time: Utc


class Jump(Frozen):
    """An entry that is older than one before it, by so many seconds."""

    number: Number
    seconds: float


class CheckedLedger(Frozen):
    """What a whole ledger was found to be. ``head`` is None for one without entries; each of its ``checkpoints`` was
    found to be what the entries before it add up to."""

    entries: Count
    head: Head | None
    jumps: tuple[Jump, ...]
    checkpoints: Count = 0
