"""Where every guarded alias stands, at a glance: what the server's tags and ledger say, compared with each other.

Not covered: proof. Tags are not signed and no file is read here; ``verify`` does both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.expiry import expired
from guardrail.evidence.trust.trust_file import Trust
from guardrail.records import Count, Frozen
from guardrail.registry.audit.ledger_reader import History
from guardrail.registry.audit.where_alias_stands import is_moved_to, unresolved
from guardrail.registry.gate.protocol import Waiting
from guardrail.registry.mlflow.tags import ADAPTER, PREFIX, VERDICT
from guardrail.registry.read.reader import Reader, Spec, StoredVersion, UnresolvedError

AliasState = Literal["ok", "expired", "revoked", "unpinned", "moved", "empty", "unknown", "refused"]
"""``moved``: the alias stands elsewhere than the ledger says, or at a version that holds something else. ``unpinned``:
of a policy, or for a base, that the trust file does not pin. ``unknown``: the tags say too little. ``refused``: the
server does not resolve it, and the tags do not say why."""


class AliasRow(Frozen):
    """One alias of a guarded model; ``waits`` is how many candidates wait for persons to agree, as the server says."""

    model: str
    alias: str
    version: str
    verdict: str
    valid_until: str
    state: AliasState
    waits: Count


class Listing(Frozen):
    """All of them. ``ledger_checked`` says whether the ledger's signatures were looked at."""

    rows: tuple[AliasRow, ...]
    entries: Count
    ledger_checked: bool


def listing(
    source: Reader, history: History, trust: Trust | None, waiting: Iterable[Waiting], now: datetime
) -> Listing:
    """Every alias that the trust file protects, the ledger speaks of, or something waits for."""
    protected = [(model.name, entry.alias) for model in trust.models for entry in model.aliases] if trust else []
    waits = Counter((one.model, one.alias) for one in waiting)
    rows = _rows(sorted({*protected, *history.places(), *waits}), source, history, trust, now)
    return Listing(
        rows=tuple(row.model_copy(update={"waits": waits[row.model, row.alias]}) for row in rows),
        entries=history.length,
        ledger_checked=history.checked,
    )


def _rows(
    places: Iterable[tuple[str, str]], source: Reader, history: History, trust: Trust | None, now: datetime
) -> Iterable[AliasRow]:
    for model, alias in places:
        found = _looked_up(source, Spec(name=model, alias=alias), history)
        tags = found.stored.tags if found.stored else {}
        state = _state(model, alias, found.stored, history, trust, now)
        yield AliasRow(
            model=model,
            alias=alias,
            version=found.stored.version if found.stored else "",
            verdict=tags.get(VERDICT, ""),
            valid_until=tags.get(PREFIX + "valid_until", ""),
            state="refused" if found.refused and state == "ok" else state,
            waits=0,
        )


@dataclass(frozen=True)
class _LookedUp:
    """What an alias stands at, if anything, and whether the server refuses to resolve it."""

    stored: StoredVersion | None
    refused: bool = False


def _looked_up(source: Reader, spec: Spec, history: History) -> _LookedUp:
    try:
        return _LookedUp(source.version(spec))
    except InvalidInput:  # no such alias yet
        return _LookedUp(None)
    except UnresolvedError as error:  # expired, revoked, or not where the ledger moved it
        try:
            return _LookedUp(unresolved(source, spec, history, error), refused=True)
        except (EvidenceInvalid, InvalidInput):
            return _LookedUp(None, refused=True)


def _state(
    model: str, alias: str, stored: StoredVersion | None, history: History, trust: Trust | None, now: datetime
) -> AliasState:
    moved = history.moved(model, alias)
    if stored is None:
        return "moved" if moved else "empty"
    if moved is None or not is_moved_to(stored, moved):
        return "moved"
    adapter = stored.tags.get(ADAPTER, "")
    if any(digest and history.revoked(digest) for digest in (adapter, moved.subject)):
        return "revoked"
    if adapter and trust is not None and not _pinned(model, alias, stored.tags, trust):
        return "unpinned"
    return _valid(stored.tags.get(PREFIX + "valid_until", ""), now) if adapter else "unknown"


def _pinned(model: str, alias: str, tags: dict[str, str], trust: Trust) -> bool:
    """Whether the trust file pins what the tags say; of a model that it does not guard nothing is asked."""
    guarded = next((one for one in trust.models if one.name == model), None)
    protected = next((one for one in guarded.aliases if one.alias == alias), None) if guarded else None
    if guarded is None or protected is None:
        return True
    base = tags.get(PREFIX + "base_sha256")
    return tags.get(PREFIX + "policy_sha256") == protected.policy and (not guarded.bases or base in guarded.bases)


def _valid(until: str, now: datetime) -> AliasState:
    try:
        return "expired" if expired(datetime.fromisoformat(until), now) else "ok"
    except (ValueError, TypeError):  # no time, or one without a zone
        return "unknown"
