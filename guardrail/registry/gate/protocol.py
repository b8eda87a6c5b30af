"""What a gated server and its clients say to each other beside MLflow's own calls, as JSON below ``PREFIX``.

    POST tickets             an envelope: a signed request (guardrail.evidence.statements.ticket_requests) -> Ticket
    GET  ledger?after=N      LedgerPage: the envelopes that follow entry N, and the head
    GET  checkpoint          LatestCheckpoint: what the entries before the last checkpoint's add up to
    GET  waiting?model=NAME  Waitings: evidence that was admitted and waits for approvals
    POST statements          an envelope: train, approve, rollback, revocation or a denial -> Submitted
    GET  statements?sha256=X that envelope again, as it was given
    GET  doctor              Health: every guarded model, its ledger and its sealed files, compared

Errors are MLflow's: JSON with ``error_code`` and ``message``; ours begin with ``guardrail refuses: ``,
``guardrail awaits: `` or ``guardrail denies: `` (``registry/mlflow/mlflow_client.py``). Types only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from guardrail.evidence.ledger.checkpoint import Checkpoint
from guardrail.evidence.ledger.entries import Head
from guardrail.records import Count, Frozen, Sha256, Utc

PREFIX = "api/2.0/guardrail"
PAGE = 500
"""The most entries in one answer."""


def _absent(value: object) -> bool:
    return not value


class LedgerPage(Frozen):
    """Some entries' envelopes, as text, in order; ``head`` is that of the whole ledger (None: no entry yet)."""

    envelopes: tuple[str, ...]
    head: Head | None


class LatestCheckpoint(Frozen):
    """The last checkpoint that the ledger names; None: it names none yet."""

    checkpoint: Checkpoint | None


class Waiting(Frozen):
    """Evidence that was admitted and waits. ``sealed`` is the digest that its files lie under, ``evidence`` of its
    envelope, ``approvals`` how many persons must agree, ``approved_by`` those who did. ``run_id`` is MLflow's run of
    the decision, in the experiment ``experiment_id``; left out where somebody has deleted it."""

    model: str
    alias: str
    evidence: Sha256
    manifest: Sha256
    sealed: Sha256
    nonce: str
    since: Utc
    approvals: Count
    approved_by: tuple[str, ...]
    experiment_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{0,40}$")] = Field(default="", exclude_if=_absent)
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z]{0,64}$")] = Field(default="", exclude_if=_absent)


class Waitings(Frozen):
    """All of them, oldest first."""

    waiting: tuple[Waiting, ...]


class Submitted(Frozen):
    """What became of a statement. ``entry`` is where the ledger ended when it was noted, at its entry or later.

    ``recorded``: noted (an adapter, a denial, a rejection, a revocation). ``waiting``: noted, more persons must agree.
    ``promoted``: the alias points at ``version`` now. ``rolled-back``: likewise, backwards. Of an adapter that a ticket
    was bound to, ``attempt`` says the how-manieth it is since the last promotion.
    """

    state: Literal["recorded", "waiting", "promoted", "rolled-back"]
    entry: Head
    model: str = ""
    alias: str = ""
    version: str = ""
    missing: Count = 0
    attempt: Count = 0


class RegistryProblem(Frozen):
    """One thing that is not as it should be. ``finish`` is what makes it whole; empty where somebody must look."""

    where: str
    what: str
    finish: str = ""


class Health(Frozen):
    """What a look at everything found. Clean means: nothing found."""

    models: Count
    versions: Count
    entries: Count
    head: Head | None
    problems: tuple[RegistryProblem, ...]
