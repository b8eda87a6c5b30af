"""What waits for persons to agree, and for how long: the server's word, for whoever must look.

Not covered: whether it could be admitted (``registry/orders/approvals.py`` looks before anybody signs).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from guardrail.records import Count, Frozen, Sha256, Utc
from guardrail.registry.gate.protocol import Waiting
from guardrail.registry.http.address import run_page


class Waits(Frozen):
    """One candidate. ``seconds`` is for how long it has waited, ``approvals`` how many persons must agree,
    ``approved_by`` who did. ``run_page`` is where MLflow shows the decision's run; empty where the server does not say.
    """

    model: str
    alias: str
    evidence: Sha256
    adapter: Sha256
    since: Utc
    seconds: Count
    approvals: Count
    approved_by: tuple[str, ...]
    run_page: str


class WaitingList(Frozen):
    """All of them, the longest first."""

    waiting: tuple[Waits, ...]


def waiting_list(found: Iterable[Waiting], tracking_uri: str, now: datetime) -> WaitingList:
    """What a server says that waits, as of now."""
    listed = sorted(found, key=lambda one: one.since)
    return WaitingList(waiting=tuple(_waits(one, tracking_uri, now) for one in listed))


def _waits(one: Waiting, tracking_uri: str, now: datetime) -> Waits:
    return Waits(
        model=one.model,
        alias=one.alias,
        evidence=one.evidence,
        adapter=one.manifest,
        since=one.since,
        seconds=max(0, int((now - one.since).total_seconds())),
        approvals=one.approvals,
        approved_by=one.approved_by,
        run_page=run_page(tracking_uri, one.experiment_id, one.run_id),
    )
