"""A ticket: the server's leave to try for one guarded alias, with the nonce that everything of this try must name.

The nonce is drawn when the ticket is issued, so nothing can be prepared before; it seeds the order in which prompts are
asked, so that is one of the orders which the server drew, each of them in its ledger; it is spent by the first evidence
that is admitted or denied with it.
Not covered: issuing and binding (``gate/ticket_office.py``), and spending (``gate/ledger_drafts.py``).
"""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TypeVar

from guardrail.evidence.digest import GENESIS
from guardrail.evidence.statements.stage_statement import Nonce
from guardrail.names import Alias, ModelName
from guardrail.records import Frozen, Sha256, Utc

LIFETIME = timedelta(days=14)
"""How long a ticket is good for: training and measuring fit in, an idle one does not wait for a better day."""
SEED_DIGITS = 8
T = TypeVar("T")


class Ticket(Frozen):
    """What the server issued; ``ledger`` is the digest of the ledger's entry that says so."""

    model: ModelName
    alias: Alias
    nonce: Nonce
    issued: Utc
    expires: Utc
    ledger: Sha256 = GENESIS


def seed_of(nonce: str) -> int:
    """The seed that an evaluation under this nonce records."""
    return int(nonce[:SEED_DIGITS], 16)


def shuffled(items: list[T], nonce: str, what: str) -> list[T]:
    """The items in the order that the nonce gives for ``what`` (a suite and attack, say)."""
    order = list(items)
    Random(f"{nonce}:{what}").shuffle(order)  # noqa: S311  (an order, no secret)
    return order
