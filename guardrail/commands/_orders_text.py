"""How an order and what follows from it are told, before anybody signs; computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardrail.evidence.statements.orders import Order, Revocation, Rollback
    from guardrail.registry.orders.what_follows import Affected


def order_lines(order: Order, follows: list[str]) -> list[str]:
    """What the order says, what follows, and until when it may be handed in."""
    from guardrail.evidence.statements.orders import Rollback

    moves = _rollback(order) if isinstance(order, Rollback) else _revocation(order)
    return [*moves, *follows, f"reason      {order.reason}", f"hand in by  {order.expires}"]


def rollback_follows(order: Rollback) -> list[str]:
    """Which alias goes where."""
    return [
        f"follows     models:/{order.model}@{order.alias} gives version {order.to_version} from then on",
        f"            version {order.from_version} comes back there only by another order",
    ]


def revocation_follows(found: tuple[Affected, ...]) -> list[str]:
    """Which versions and aliases stop resolving."""
    if not found:
        return ["follows     nobody can promote it; no version holds it, as the server's ledger says"]
    said = [line for one in found for line in _taken(one)]
    return [f"{'' if number else 'follows':<12}{line}" for number, line in enumerate(said)]


def unknown_follows(why: str) -> list[str]:
    """Where the server cannot be asked."""
    return [f"follows     NOT KNOWN which versions and aliases stop resolving: {why}"]


def _rollback(order: Rollback) -> list[str]:
    return [
        f"rollback    {order.model}@{order.alias} from version {order.from_version} to version {order.to_version}",
        f"            after entry {order.ledger} of the ledger",
        f"adapter     {order.manifest}",
    ]


def _revocation(order: Revocation) -> list[str]:
    return ["revocation  this adapter is out, everywhere and for good", f"adapter     {order.manifest}"]


def _taken(one: Affected) -> Iterator[str]:
    place = f"{one.model}@{one.alias}"
    if one.stands:
        yield f"{place} points at version {one.stands}: the alias stops resolving"
    if one.versions:
        yield f"{one.model} versions {', '.join(one.versions)}: marked REVOKED, verify and pull refuse them"
    else:
        yield f"{place}: a candidate that holds it can no longer be promoted"
