"""Where every guarded alias stands, at a glance: what the server's tags and ledger say, compared with each other.

Not covered: proof. Tags are not signed and no file is read here; ``verify`` does both.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from guardrail.errors import InvalidInput
from guardrail.evidence.trust import Trust
from guardrail.records import Count, Frozen
from guardrail.registry.history import History
from guardrail.registry.reader import Reader, Spec, StoredVersion, UnresolvedError
from guardrail.registry.standing import unresolved
from guardrail.registry.tags import PREFIX

State = Literal["ok", "expired", "revoked", "moved", "empty", "unknown"]
"""``moved``: the alias stands elsewhere than the ledger says. ``unknown``: the tags say too little."""


class Row(Frozen):
    """One alias of a guarded model."""

    model: str
    alias: str
    version: str
    verdict: str
    valid_until: str
    state: State


class Listing(Frozen):
    """All of them. ``ledger_checked`` says whether the ledger's signatures were looked at."""

    rows: tuple[Row, ...]
    entries: Count
    ledger_checked: bool


def listing(source: Reader, history: History, trust: Trust | None, now: datetime) -> Listing:
    """Every alias that the trust file protects or the ledger speaks of."""
    protected = [(model.name, entry.alias) for model in trust.models for entry in model.aliases] if trust else []
    return Listing(
        rows=tuple(_rows(sorted({*protected, *history.places()}), source, history, now)),
        entries=len(history.entries),
        ledger_checked=history.checked,
    )


def _rows(places: Iterable[tuple[str, str]], source: Reader, history: History, now: datetime) -> Iterable[Row]:
    for model, alias in places:
        try:
            stored = source.version(Spec(name=model, alias=alias))
        except InvalidInput:  # no such alias yet
            stored = None
        except UnresolvedError as error:  # expired or revoked: the server does not resolve it
            stored = unresolved(source, Spec(name=model, alias=alias), history, error)
        tags = stored.tags if stored else {}
        yield Row(
            model=model, alias=alias, version=stored.version if stored else "",
            verdict=tags.get(PREFIX + "verdict", ""), valid_until=tags.get(PREFIX + "valid_until", ""),
            state=_state(model, alias, stored, history, now),
        )  # fmt: skip


def _state(model: str, alias: str, stored: StoredVersion | None, history: History, now: datetime) -> State:
    moved = history.moved(model, alias)
    if stored is None:
        return "moved" if moved else "empty"
    if moved is None or moved.version != stored.version:
        return "moved"
    adapter = stored.tags.get(PREFIX + "adapter_sha256", "")
    if any(digest and history.revoked(digest) for digest in (adapter, moved.subject)):
        return "revoked"
    return _valid(stored.tags.get(PREFIX + "valid_until", ""), now) if adapter else "unknown"


def _valid(until: str, now: datetime) -> State:
    try:
        return "ok" if now <= datetime.fromisoformat(until) else "expired"
    except (ValueError, TypeError):  # no time, or one without a zone
        return "unknown"
