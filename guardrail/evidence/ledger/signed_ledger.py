"""An append-only ledger in which nothing can be changed unseen: every entry is signed and names the one before.

An entry is a DSSE envelope; its ``previous`` is the SHA-256 of the whole envelope before it. Checking finds edits,
deletions, insertions, moves, doubled numbers, foreign signers and clocks that went back. What no chain shows by itself
is that its end is missing: for that the head is exported at every entry, to where the ledger's keeper cannot write, and
given back here. The idea is Haber and Stornetta's (1991); RFC 6962 makes a tree of it, which we do not need.
Not covered: where entries are kept (``ledger_file.py``); a keeper who holds the signing key and
the exported heads can write another history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import GENESIS, canonical, sha256
from guardrail.evidence.envelope import sign, unverified_payload
from guardrail.evidence.keys.key_pairs import PrivateKey, PublicKey
from guardrail.evidence.ledger.entries import CheckedLedger, Entry, EntryKind, Head
from guardrail.evidence.ledger.fast_envelope import OpenedEnvelope, Verifier
from guardrail.evidence.ledger.follows import LedgerChain
from guardrail.evidence.ledger.sums import Sums

LEDGER_TYPE = "application/vnd.mlflow-guardrail.ledger+json"
LARGEST_ENTRY = 64 << 10
BATCH = 500


def next_entry(head: Head | None, *, time: datetime, kind: EntryKind, **what: Any) -> Entry:
    """The entry that follows ``head`` (None: the first); ``what`` are the other fields of :class:`Entry`."""
    number, previous = (head.number + 1, head.digest) if head else (1, GENESIS)
    return Entry(number=number, previous=previous, time=time, kind=kind, **what)


def append(head: Head | None, entry: Entry, key: PrivateKey) -> bytes:
    """The signed envelope of an entry that follows ``head``.

    Raises:
        EvidenceInvalid: it does not follow, or its time lies before the latest by more than a clock may step back.
    """
    LedgerChain(head).follow(entry, GENESIS)
    data = sign(canonical(entry), key, payload_type=LEDGER_TYPE)
    if len(data) > LARGEST_ENTRY:
        raise EvidenceInvalid(f"the entry's envelope has {len(data)} bytes", expected=f"at most {LARGEST_ENTRY}")
    return data


def advance(head: Head | None, data: bytes) -> Head:
    """The head after the envelope ``data``, which :func:`append` has just made; its signature is NOT looked at.

    Raises:
        EvidenceInvalid: no entry, or it does not follow.
    """
    return LedgerChain(head).follow(_parse(unverified_payload(data, payload_type=LEDGER_TYPE)), sha256(data))


def verify(
    envelopes: Iterable[bytes],
    keys: Sequence[PublicKey],
    head: Head | None = None,
    *,
    now: datetime | None = None,
    workers: int = 1,
    sums: Sums | None = None,
) -> CheckedLedger:
    """Check a whole ledger, from its first entry, or from the checkpoint that ``sums`` were made of.

    Args:
        envelopes: every entry's envelope, in order.
        keys: whose signatures are accepted.
        head: an exported head; the ledger must reach it (and may go on). Without one a missing end is not noticed.
        now: entries from later than five minutes after it are refused.
        workers: threads that verify signatures beside this one; the verdict is the same for any number.
        sums: what the entries add up to is added here, and where it was made of a checkpoint, ``envelopes`` are those
            after that checkpoint's head.

    Raises:
        EvidenceInvalid: the first thing that is wrong, by the number of the entry; a checkpoint that is not what the
            entries before it add up to; an exported head from before the checkpoint that was started from.
    """
    sums = Sums() if sums is None else sums
    verifier, chain = Verifier(keys, LEDGER_TYPE), _chain(sums, now, head)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        signatures = _Signatures(verifier, pool, 4 * max(1, workers), first=chain.number + 1)
        try:
            for data in envelopes:
                opened = _open(verifier, data, chain.number + 1)
                entry = _entry(opened, chain.number + 1)
                after = chain.follow(entry, sha256(data))
                signatures.add(opened)
                sums.take(entry, after)
        except EvidenceInvalid:
            signatures.finish()  # a bad signature before it is the first thing that is wrong
            raise
        signatures.finish()
    chain.finish()
    sums.require_proven()
    return CheckedLedger(entries=chain.number, head=chain.head, jumps=tuple(chain.jumps), checkpoints=sums.checkpoints)


def read_entry(data: bytes, verifier: Verifier) -> Entry:
    """One entry, its signature verified; whether it follows from the one before is asked elsewhere.

    Raises:
        EvidenceInvalid: too large, not canonical, or signed by another key than ``verifier`` knows.
    """
    if len(data) > LARGEST_ENTRY:
        raise EvidenceInvalid(f"an entry has {len(data)} bytes", expected=f"at most {LARGEST_ENTRY}")
    opened = verifier.open(data)
    verifier.check(opened)
    return _parse(opened.payload)


class _Signatures:
    """Signatures that are being verified by other threads, in batches; the first bad one is raised."""

    def __init__(self, verifier: Verifier, pool: ThreadPoolExecutor, ahead: int, first: int = 1) -> None:
        self._verifier, self._pool, self._ahead = verifier, pool, ahead
        self._waiting: deque[Future[None]] = deque()
        self._batch: list[OpenedEnvelope] = []
        self._first = first

    def add(self, opened: OpenedEnvelope) -> None:
        """Take the next entry's envelope."""
        self._batch.append(opened)
        if len(self._batch) == BATCH:
            self._submit()
        if len(self._waiting) > self._ahead:
            self._wait()

    def finish(self) -> None:
        """Wait for all of them."""
        self._submit()
        while self._waiting:
            self._wait()

    def _wait(self) -> None:
        try:
            self._waiting.popleft().result()
        except EvidenceInvalid:  # whatever else is wrong comes after it
            self._waiting.clear()
            self._batch = []
            raise

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(_check, self._verifier, self._batch, self._first))
        self._first += len(self._batch)
        self._batch = []


def _chain(sums: Sums, now: datetime | None, exported: Head | None) -> LedgerChain:
    """Where checking starts: an exported head from before it could not be compared with anything."""
    if exported is not None and sums.number > exported.number:
        raise EvidenceInvalid(
            f"the exported head names entry {exported.number}, before the checkpoint at entry {sums.number}",
            expected="a later head",
            next_step="read the whole ledger",
        )
    return LedgerChain(sums.head, now, exported)


def _open(verifier: Verifier, data: bytes, number: int) -> OpenedEnvelope:
    if len(data) > LARGEST_ENTRY:
        raise EvidenceInvalid(f"entry {number} has {len(data)} bytes", expected=f"at most {LARGEST_ENTRY}")
    try:
        return verifier.open(data)
    except EvidenceInvalid as error:
        raise _at(number, error) from error


def _entry(opened: OpenedEnvelope, number: int) -> Entry:
    try:
        return _parse(opened.payload)
    except EvidenceInvalid as error:
        raise _at(number, error) from error


def _check(verifier: Verifier, batch: list[OpenedEnvelope], number: int) -> None:
    for offset, opened in enumerate(batch):
        try:
            verifier.check(opened)
        except EvidenceInvalid as error:
            raise _at(number + offset, error) from error


def _parse(payload: bytes) -> Entry:
    try:
        entry = Entry.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise EvidenceInvalid(f"this is not an entry of ours: {where}: {first['msg']}") from error
    if entry.model_dump_json().encode("utf-8") != payload:
        raise EvidenceInvalid("the entry is not in its canonical form", expected="RFC 8785 bytes")
    return entry


def _at(number: int, error: EvidenceInvalid) -> EvidenceInvalid:
    return EvidenceInvalid(f"entry {number}: {error.got}", expected=error.expected, next_step=error.next_step)
