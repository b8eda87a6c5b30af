"""A checkpoint: what a ledger's entries add up to for whoever verifies a version, committed to by the ledger itself.

An entry of the kind ``checkpoint`` names the digest of this document, so the server signs it as it signs every entry,
and every later head commits to it. Whoever verifies reads the document and the entries from that one on. Whoever reads
the whole ledger computes the document anew and refuses an entry that names another: a server that lied in a checkpoint
has signed the proof of it. Its size follows what was admitted, voted on and moved, not what was asked for.
The idea is the signed tree head of Certificate Transparency (RFC 6962), as C2SP's tlog-checkpoint and Sigstore's Rekor
use it; here it carries the sums, because a chain has no inclusion proofs.
Types only. Not covered: how the sums are made (``sums.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from guardrail.evidence.ledger.entries import Entry, Head, Number, Short
from guardrail.records import Count, Frozen, Sha256, Utc

EVERY = 1_000
"""A checkpoint follows so many entries (and as many as the last one kept: what is kept is written so often only)."""
LARGEST_CHECKPOINT = 12 << 20
"""The most bytes of one; beyond it no further ones are made, and readers go on from the last."""


class PlaceSums(Frozen):
    """A model and alias that the ledger speaks of: ``adapters`` were ever bound to its tickets, ``attempts`` of them
    since its last promotion."""

    adapters: Count
    alias: Short
    attempts: Count
    model: Short


class BoundTicket(Frozen):
    """A ticket that was bound to an adapter as the ``number``-th attempt, in an entry of this ``time``."""

    alias: Short
    manifest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    model: Short
    nonce: Short
    number: Number
    time: Utc


class Checkpoint(Frozen):
    """What the entries up to ``head`` add up to.

    ``entries`` are those that still say something to a verifier, in order: admissions, votes, moves, revocations, trust
    files. ``attempts`` are the bound tickets of what was admitted, and those that may still be; ``places`` are sorted.
    """

    attempts: tuple[BoundTicket, ...]
    entries: tuple[Entry, ...]
    head: Head
    places: tuple[PlaceSums, ...]
    schema_version: Literal[1] = 1


class Anchor(Frozen):
    """A checkpoint and its digest, which the entry of this ``number`` names."""

    checkpoint: Checkpoint
    digest: Sha256
    number: Number
