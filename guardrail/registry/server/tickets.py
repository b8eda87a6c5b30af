"""Issuing tickets: one fresh nonce for one attempt at one guarded alias, written down before it is handed out.

Not covered: spending them (``admission.py``).
"""

from __future__ import annotations

import secrets

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.tickets import LIFETIME, Ticket
from guardrail.evidence.trust import Trust
from guardrail.registry.server.admission import protected_alias
from guardrail.registry.server.journal import Journal, draft

NONCE_BYTES = 32


def issue(journal: Journal, trust: Trust, model: str, alias: str) -> Ticket:
    """A ticket for ``alias`` of ``model``.

    Raises:
        EvidenceInvalid: the model is not guarded, or the alias not protected, under exactly these names.
    """
    guarded = trust.guarded(model)
    if guarded is None or guarded.name != model:
        raise EvidenceInvalid(
            f"the model {model!r} is not guarded", expected="a model of the trust file, as spelt there"
        )
    protected_alias(guarded, alias)
    nonce = secrets.token_hex(NONCE_BYTES)

    journal.append(lambda _: draft("proposal", model=model, alias=alias, nonce=nonce))
    issued = journal.state().tickets[nonce]
    return Ticket(
        model=model, alias=alias, nonce=nonce, issued=issued.issued,
        expires=issued.issued + LIFETIME, ledger=issued.head.digest,
    )  # fmt: skip
