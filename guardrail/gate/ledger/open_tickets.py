"""Which tickets each key has asked for and not used up: what a limit per key is counted by.

Pure, and part of what the ledger's entries add up to (``ledger_state.py``). A ticket is used up by the evidence that
spends it, admitted or denied, or by its expiry; binding it to an adapter does not, or attempts would cost nothing. Not
covered: the limit itself (``gate/ticket_office.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from guardrail.evidence.ledger.entries import Entry
from guardrail.evidence.statements.tickets import LIFETIME


@dataclass(frozen=True)
class Holder:
    """A key and the model and alias that it asked for a ticket for."""

    key_id: str
    model: str
    alias: str


@dataclass
class OpenTickets:
    """Tickets by who asked for them; those from before requests were signed are nobody's."""

    by_request: dict[str, str] = field(default_factory=dict)
    """Digest of a signed request to the nonce of its ticket."""
    requests: dict[str, str] = field(default_factory=dict)
    """And back."""
    _holders: dict[str, Holder] = field(default_factory=dict)
    _open: dict[Holder, dict[str, datetime]] = field(default_factory=dict)
    """When each ticket that is not used up expires, by its nonce, oldest first."""

    def take(self, entry: Entry) -> None:
        """The next entry of the ledger."""
        if entry.kind == "proposal" and not entry.subject and entry.statement:
            self._issue(entry, entry.statement)
        elif entry.kind in ("decision", "denial") and entry.evidence and entry.nonce in self._holders:
            self._open[self._holders[entry.nonce]].pop(entry.nonce, None)

    def of(self, holder: Holder, now: datetime) -> tuple[datetime, ...]:
        """When each ticket of the holder that is not used up expires, the next one first."""
        return tuple(sorted(expires for expires in self._open.get(holder, {}).values() if now < expires))

    def _issue(self, entry: Entry, request: str) -> None:
        holder = Holder(entry.note, entry.model, entry.alias)
        self.by_request.setdefault(request, entry.nonce)
        self.requests.setdefault(entry.nonce, request)
        self._holders.setdefault(entry.nonce, holder)
        held = self._open.setdefault(holder, {})
        for nonce in [nonce for nonce, expires in held.items() if not entry.time < expires]:
            del held[nonce]
        held[entry.nonce] = entry.time + LIFETIME
