"""What ``approve`` and ``reject`` share: show the candidate as the gate sees it, ask, sign, hand in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrail.commands import _consent as consent
from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.commands._candidate_text import measured_lines, place_lines, warning_lines
from guardrail.commands._output import decision_lines, emit, say

if TYPE_CHECKING:
    from guardrail.registry.audit.ledger_reader import History
    from guardrail.registry.audit.stage_evidence import Authority
    from guardrail.registry.gate.protocol import Submitted, Waiting
    from guardrail.registry.verify.evidence_checks import Examined

EVIDENCE = click.option("--evidence", metavar="SHA256", default=None, help="Which candidate, where several wait.")

REPORT = click.option(
    "--report", type=options.FILE, default=None, help="Write the report here (HTML), made of what was checked."
)


def voting_command(name: str, text: str, *, approved: bool) -> click.Command:
    """``guardrail approve`` or ``reject``, with ``text`` as its help."""

    @click.command(name, help=text)
    @click.argument("spec", metavar="NAME@ALIAS")
    @EVIDENCE
    @options.KEY
    @options.PUBLIC_KEY
    @trusting.trust_options
    @trusting.VOTED_DECIDER_KEY
    @options.TRACKING_URI
    @REPORT
    @consent.REASON
    @consent.YES
    @options.OUTPUT
    def command(
        spec: str,
        evidence: str | None,
        key: str,
        public_key: Path | None,
        trust: Path | None,
        roots: tuple[Path, ...],
        root_threshold: int | None,
        decider_keys: tuple[Path, ...],
        tracking_uri: str,
        yes: bool,
        output: str,
        reason: str,
        report: Path | None,
    ) -> None:
        given = trusting.TrustGiven(trust, roots, root_threshold)
        ballot = Ballot(spec, evidence, approved, reason, tracking_uri, output, report)
        vote(ballot, key=key, public_key=public_key, trust=given, decider_keys=decider_keys, yes=yes)

    return command


@dataclass(frozen=True)
class Ballot:
    """What a person was asked and answers."""

    spec: str
    evidence: str | None
    approved: bool
    reason: str
    tracking_uri: str
    output: str
    report: Path | None


@dataclass(frozen=True)
class _Shown:
    """What the person was shown, and how the stages were checked."""

    examined: Examined
    waiting: Waiting
    authority: Authority | None
    history: History | None


def vote(
    ballot: Ballot,
    *,
    key: str,
    public_key: Path | None,
    trust: trusting.TrustGiven,
    decider_keys: tuple[Path, ...],
    yes: bool,
) -> None:
    """Show, ask, sign, hand in, and tell what became of it.

    Raises:
        AwaitingApproval, InvalidInput: the person did not confirm, or could not be asked; nothing was signed.
    """
    from guardrail.evidence.envelope import sign
    from guardrail.evidence.statements.stage_statement import Approval
    from guardrail.registry.gate.client import GateClient
    from guardrail.registry.orders import approvals

    now = datetime.now(UTC)
    gate = GateClient(ballot.tracking_uri)
    shown = _show(ballot, gate, trust, decider_keys, now)
    consent.require_consent("Approve it?" if ballot.approved else "Reject it for good?", yes=yes)
    now = datetime.now(UTC)
    said = approvals.Vote(Approval(approved=ballot.approved, reason=ballot.reason), now)
    ledger = approvals.ledger_head(gate)
    envelope = sign(approvals.state(shown.examined, said, ledger), options.signer(key, public_key))
    if shown.authority is not None and shown.history is not None:
        approvals.require_welcome(envelope, shown.examined, shown.waiting, shown.authority, shown.history)
    _tell(gate.submit(envelope), ballot)


def _show(
    ballot: Ballot, gate: Any, trust: trusting.TrustGiven, decider_keys: tuple[Path, ...], now: datetime
) -> _Shown:
    from guardrail.registry.audit.stage_evidence import Authority
    from guardrail.registry.orders import approvals
    from guardrail.registry.read.reader import parse_spec
    from guardrail.registry.read.rest_reader import RestReader
    from guardrail.registry.verify.verify import workplace

    by = trusting.believed(decider_keys, trusting.load(trust, now))
    waiting = approvals.choose(gate, parse_spec(ballot.spec), ballot.evidence)
    with workplace() as place:
        examined = approvals.look(place, RestReader(ballot.tracking_uri), waiting, by.keys, now)
    authority = Authority(by.trust, gate, now) if by.trust else None
    history = authority.history() if authority else None
    checked = approvals.check_stages(examined, authority, history) if authority and history else ""
    lines = _lines(examined, waiting, authority, checked, ballot.tracking_uri)
    say(*lines, err=ballot.output == "json")
    if ballot.report is not None:
        _write_report(examined, ballot.report)
    return _Shown(examined, waiting, authority, history)


def _write_report(examined: Examined, target: Path) -> None:
    """The page that MLflow shows, of the records that were checked here."""
    from guardrail.atomic import write_atomically
    from guardrail.policy.rules import Evidence
    from guardrail.report.html import render

    evidence = Evidence(data=examined.data, adapter=examined.adapter, evaluation=examined.evaluation)
    write_atomically(target, render(examined.decision, evidence).encode())


def _lines(
    examined: Examined, waiting: Waiting, authority: Authority | None, checked: str, tracking_uri: str
) -> list[str]:
    from guardrail.registry.audit.stage_evidence import names, stage_signers

    trust = authority.trust if authority else None
    decision = examined.decision
    values = [
        f"evidence    {examined.evidence_sha256}",
        f"adapter     {decision.manifest}",
        f"base        {decision.base.name}, sha256 {decision.base.digest}",
        f"attempt     {decision.attempt}",
        f"waits since {waiting.since}, valid until {examined.valid_until}",
        *place_lines(waiting, tracking_uri),
        f"decided by  {', '.join(names(examined.signed_by, trust))}",
        *(f"{entry.stage + ' by':<12}{', '.join(entry.persons)}" for entry in stage_signers(examined, trust)),
        f"agreed      {', '.join(waiting.approved_by) or 'nobody yet'}, says the server; {waiting.approvals} must",
    ]
    lines = [*decision_lines(decision), *measured_lines(examined), *warning_lines(examined), *values]
    if trust is None:
        return [*lines, "NOT CHECKED whose keys signed the stages: give --trust"]
    danger = [trusting.DANGER] if trust.one_person_may_train_evaluate_and_approve else []
    return [*lines, f"checked     every stage, by version {trust.version} of the trust file: {checked}", *danger]


def _tell(found: Submitted, ballot: Ballot) -> None:
    text = {
        "promoted": f"promoted    {found.model}@{found.alias} points at version {found.version} now",
        "waiting": f"recorded    {found.missing} more must approve {ballot.spec}",
        "recorded": f"recorded    {'approved' if ballot.approved else 'rejected'} {ballot.spec}",
    }.get(found.state, found.state)
    emit(found, ballot.output, [f"{text} (entry {found.entry.number} of the ledger)"])
