"""A model's history for people: each entry of the ledger about it, with who signed what was handed in.

Who somebody is comes from a trust file; without one there are only ids of keys, and no signature of theirs is checked.
Not covered: rendering (``commands/_registry_text.py``).
"""

from __future__ import annotations

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.envelope import signers, unverified_payload, verify
from guardrail.evidence.ledger.entries import Entry
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.trust.trust_file import Trust
from guardrail.records import Count, Frozen
from guardrail.registry.audit.ledger_reader import VOTES, History, handed_in
from guardrail.registry.audit.stage_evidence import names
from guardrail.registry.gate.client import GateClient

BY_PEOPLE = frozenset({*VOTES, "rollback", "revocation"})


class Event(Frozen):
    """An entry, who signed what it is about (empty: the server alone), and the reason that they gave."""

    entry: Entry
    who: tuple[str, ...]
    reason: str


class Events(Frozen):
    """All of one model. ``entries`` is how long the whole ledger is; ``checked`` whether its signatures were."""

    model: str
    events: tuple[Event, ...]
    entries: Count
    checked: bool


def events(model: str, gate: GateClient, history: History, trust: Trust | None) -> Events:
    """What the ledger says of ``model``.

    Raises:
        EvidenceInvalid: a statement that was handed in is gone, or (with a trust file) by somebody who may not sign it.
    """
    found = tuple(_event(entry, gate, trust) for entry in history.about(model))
    return Events(model=model, events=found, entries=history.length, checked=history.checked)


def _event(entry: Entry, gate: GateClient, trust: Trust | None) -> Event:
    if entry.kind not in BY_PEOPLE:
        return Event(entry=entry, who=(), reason=entry.note)
    if entry.statement is None:
        raise EvidenceInvalid(f"entry {entry.number} is a {entry.kind}, but names no statement")
    data = handed_in(gate, entry.statement)
    payload = verify(data, trust.keys_of("approve")) if trust else unverified_payload(data)
    return Event(entry=entry, who=names(signers(data), trust), reason=_reason(entry, payload))


def _reason(entry: Entry, payload: bytes) -> str:
    if entry.kind in VOTES:
        approval = parse(payload).predicate.approval
        return approval.reason if approval else ""
    return orders.parse(payload).reason
