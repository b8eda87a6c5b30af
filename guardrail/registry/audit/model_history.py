"""A model's history for people: each entry of the ledger about it, with who signed what was handed in.

Who somebody is comes from a trust file; without one there are only ids of keys, and no signature of theirs is checked.
Not covered: rendering (``commands/_registry_text.py``).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import LARGEST, PAYLOAD_TYPE, signers, unverified_payload, verify
from guardrail.evidence.ledger.entries import Entry
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.statements.ticket_requests import TICKET_REQUEST_TYPE
from guardrail.evidence.trust.trust_file import TRUST_TYPE, Trust
from guardrail.records import Count, Frozen
from guardrail.registry.audit.ledger_reader import VOTES, History, handed_in
from guardrail.registry.audit.stage_evidence import names
from guardrail.registry.gate.client import GateClient
from guardrail.registry.read.reader import Files
from guardrail.registry.verify.verify import workplace

BY_PEOPLE = frozenset({*VOTES, "rollback", "revocation"})
SAID = {"proposal": (TICKET_REQUEST_TYPE, PAYLOAD_TYPE), "denial": (PAYLOAD_TYPE,), "trust": (TRUST_TYPE,)}
"""Of which types the statement is that such an entry may name."""
KEPT = re.compile(r"sealed/[0-9a-f]{64}")
"""Where the note of an admission says that the files lie."""
DECISION = f"{EVIDENCE}/{ENVELOPE}"
MOST_TOLD = 10


class Event(Frozen):
    """An entry, who signed what it is about (empty: the server alone), and the reason that they gave.

    A promotion is by those who agreed to it; where nobody had to, by those who decided.
    """

    entry: Entry
    who: tuple[str, ...]
    reason: str


class Events(Frozen):
    """All of one model. ``entries`` is how long the whole ledger is; ``checked`` whether its signatures were."""

    model: str
    events: tuple[Event, ...]
    entries: Count
    checked: bool


def events(model: str, gate: GateClient, sealed: Files, history: History, trust: Trust | None) -> Events:
    """What the ledger says of ``model``.

    Args:
        model: its name.
        gate: the server, which gives what was handed in.
        sealed: where it keeps the evidence of what it admitted.
        history: its ledger, whole.
        trust: who is who, and whose signature counts; None: nobody is known, and no signature is looked at.

    Raises:
        InvalidInput: the ledger says nothing of such a model, and the trust file does not guard it.
        EvidenceInvalid: a statement that was handed in is gone, or (with a trust file) by somebody who may not sign it.
    """
    _require_known(model, history, trust)
    teller = _Teller(gate, sealed, trust)
    found = tuple(teller.event(entry) for entry in history.about(model))
    return Events(model=model, events=found, entries=history.length, checked=history.checked)


def _require_known(model: str, history: History, trust: Trust | None) -> None:
    named = {entry.model for entry in history.entries if entry.model}
    named |= {one.name for one in trust.models} if trust else set()
    if model not in named:
        told = ", ".join(f"{name!a}" for name in sorted(named)[:MOST_TOLD])
        raise InvalidInput(
            f"the server's ledger says nothing of a model {model!a}",
            expected=f"one that it names: {told}" if told else "a model for which a ticket was taken",
            next_step="guardrail registry list shows every guarded alias",
        )


@dataclass
class _Teller:
    """Who did what: of a promotion, who agreed to its evidence, and else who decided on it."""

    gate: GateClient
    sealed: Files
    trust: Trust | None
    agreed: dict[str, set[str]] = field(default_factory=dict)
    decided: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def event(self, entry: Entry) -> Event:
        """One entry; call it in the ledger's order."""
        if entry.kind in BY_PEOPLE:
            return self._by_people(entry)
        if entry.kind in SAID and entry.statement is not None:
            who = self._signers(handed_in(self.gate, entry.statement), SAID[entry.kind])
            return Event(entry=entry, who=who, reason=_note(entry))
        if entry.kind == "decision":
            return self._decision(entry)
        return Event(entry=entry, who=self._promoters(entry), reason=entry.note)

    def _by_people(self, entry: Entry) -> Event:
        if entry.statement is None:
            raise EvidenceInvalid(f"entry {entry.number} is a {entry.kind}, but names no statement")
        data = handed_in(self.gate, entry.statement)
        payload = verify(data, self.trust.keys_of("approve")) if self.trust else unverified_payload(data)
        who = names(signers(data), self.trust)
        if entry.kind == "approval":
            self.agreed.setdefault(entry.evidence or "", set()).update(who)
        return Event(entry=entry, who=who, reason=_reason(entry, payload))

    def _decision(self, entry: Entry) -> Event:
        try:
            who = self._deciders(entry)
        except InvalidInput as error:  # it was deleted since, or whoever asks may not read it
            return Event(entry=entry, who=(), reason=f"{entry.note}; NOT KNOWN by whom: {error.got}")
        self.decided[entry.evidence or ""] = who
        return Event(entry=entry, who=who, reason=entry.note)

    def _promoters(self, entry: Entry) -> tuple[str, ...]:
        if entry.kind != "promotion" or entry.evidence is None:
            return ()
        return tuple(sorted(self.agreed.get(entry.evidence, ()))) or self.decided.get(entry.evidence, ())

    def _deciders(self, entry: Entry) -> tuple[str, ...]:
        """Who signed the decision, whose envelope the entry names by its digest; nobody where no place is noted."""
        match = KEPT.match(entry.note)
        if match is None:
            return ()
        with workplace() as place:
            self.sealed.fetch(match[0], DECISION, place / ENVELOPE, self._size(match[0]))
            data = (place / ENVELOPE).read_bytes()
        if sha256(data) != entry.evidence:
            raise EvidenceInvalid(
                f"the server keeps another decision than entry {entry.number} admitted", expected=f"{entry.evidence}"
            )
        return self._signers(data, (PAYLOAD_TYPE,))

    def _size(self, root: str) -> int:
        """What the server says the decision's envelope has; a file may take no longer than its size allows."""
        sizes = [entry.size for entry in self.sealed.listing(root, EVIDENCE) if entry.path == DECISION]
        if not sizes:
            raise InvalidInput(f"the server keeps no {DECISION} there")
        return min(sizes[0], LARGEST)

    def _signers(self, data: bytes, types: tuple[str, ...]) -> tuple[str, ...]:
        """Persons, if every signature is theirs; a key that the trust file does not name any more is told as a key."""
        kind = _type_of(data, types)
        found = signers(data, payload_type=kind)
        if self.trust is None or not set(found) <= set(self.trust.keys):
            return names(found, None)
        verify(data, self.trust.public_keys(found), payload_type=kind)
        return names(found, self.trust)


def _type_of(data: bytes, types: tuple[str, ...]) -> str:
    """Which of these an envelope holds; the last where it holds none of them, and reading it says so."""
    for kind in types[:-1]:
        with suppress(EvidenceInvalid):
            unverified_payload(data, payload_type=kind)
            return kind
    return types[-1]


def _note(entry: Entry) -> str:
    """A ticket's note is the key that asked, which is told as who."""
    return "" if entry.kind == "proposal" and not entry.subject else entry.note


def _reason(entry: Entry, payload: bytes) -> str:
    if entry.kind in VOTES:
        approval = parse(payload).predicate.approval
        return approval.reason if approval else ""
    return orders.parse(payload).reason
