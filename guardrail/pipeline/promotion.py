"""The promotion stage within a run: decide, sign, register. Loads neither torch nor the base."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from guardrail import logs, nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import InvalidInput
from guardrail.evidence.bundle import ENVELOPE, Bundle, seal
from guardrail.evidence.digest import digest
from guardrail.evidence.expiry import expired
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.statements.tickets import Ticket
from guardrail.pipeline import answer_errors
from guardrail.pipeline.gate import gate_attempt
from guardrail.pipeline.gate.run_ticket import held
from guardrail.pipeline.gate.signing import ends, signed_stages
from guardrail.pipeline.run import Run
from guardrail.policy.decide import decide
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import Evidence
from guardrail.records import AdapterRecord, DataReport, Decision, EvaluationReport, RegistryRecord, Verdict
from guardrail.registry.record.decision_run import PAGE
from guardrail.report import html, markdown

log = logs.logger(__name__)
SUMMARY = "report.md"


def decide_run(run: Run, now: datetime, policy: LoadedPolicy | None = None) -> Decision:
    """The decision on a run, made anew unless one on the same records is still valid; its renderings beside it.

    Under another ``policy`` than the run's, if one is given; the run keeps its own (:func:`promote_run` changes it).
    With a ticket it is made at the confidence that is left for this attempt, and ends with the first of the stages'
    statements that are there.

    Raises:
        EvidenceMissing: a stage has not run, or there is a ticket and the gated server was not told of the adapter.
        EvidenceInvalid: the records do not belong together or to the policy, or the ticket is not for its target.
        InvalidInput: there is a ticket, and another policy: what a gate was told of is judged by its own.
    """
    decision, evidence = judged(run, now, policy)
    if decision != run.read("decision", Decision):
        run.write("decision", decision)
    errors = tuple(map(str, answer_errors.frequent(run)))
    run.render(PAGE, html.render(decision, evidence, errors))
    run.render(SUMMARY, markdown.render(decision, evidence, errors))
    return decision


def judged(run: Run, now: datetime, policy: LoadedPolicy | None = None) -> tuple[Decision, Evidence]:
    """The decision on a run and what it rests on, as :func:`decide_run`; nothing is written."""
    known, policy = run.policy(), policy or run.policy()
    evidence, ticket = evidence_of(run), held(run)
    if policy.digest != known.digest:
        _require_decidable(run, policy, known, ticket)
    attempt = gate_attempt.require(run, ticket) if ticket else None
    inputs = digest(
        {
            "stage": "decide",
            "policy": policy.digest,
            "evidence": digest(evidence),
            **({"attempt": digest(attempt)} if attempt else {}),
        }
    )
    decision = run.read("decision", Decision)
    until = ends(run) if ticket else None
    if decision is None or decision.inputs != inputs or not _holds(decision, now, until):
        decision = decide(
            policy, evidence, inputs=inputs, now=now, attempt=attempt.number if attempt else 0, until=until
        )
    return decision, evidence


def _require_decidable(run: Run, policy: LoadedPolicy, known: LoadedPolicy, ticket: Ticket | None) -> None:
    if ticket:
        raise InvalidInput(
            f"{run.path} has a ticket, and was evaluated for the policy that it was started with",
            expected="that policy",
            next_step="take a new ticket: another policy is another attempt at the gate",
        )
    if policy.directory.resolve() != known.directory.resolve() and (names := policy.unpinned_files):
        raise InvalidInput(
            f"{policy.source} lies in another folder than the run's policy, and names files there without pinning "
            f"them: {', '.join(names)}",
            expected=f"a policy in {known.directory}, or one that pins what it names (sha256)",
            next_step="put it beside the other, or start a run with it",
        )


def evidence_of(run: Run) -> Evidence:
    """The records that a decision is made from.

    Raises:
        EvidenceMissing: a stage has not run.
    """
    return Evidence(
        data=run.require("data-report", DataReport),
        adapter=run.require("adapter", AdapterRecord),
        evaluation=run.require("evaluation-report", EvaluationReport),
    )


def _holds(decision: Decision, now: datetime, until: datetime | None) -> bool:
    """Valid now, and no longer than what it rests on."""
    ends = decision.valid_until
    return decision.decided_at <= now and not expired(ends, now) and (until is None or ends <= until)


def bundle(run: Run, decision: Decision, key: PrivateKey, now: datetime) -> Bundle:
    """The decision with its evidence, signed; signed once, so that promoting again is promoting the same.

    With a ticket, the statements of all stages are part of the evidence.

    Raises:
        EvidenceInvalid: the adapter's files are not those that were recorded.
        EvidenceMissing: there is a ticket, and a stage has not signed what its record is now.
    """
    adapter, ticket = run.require("adapter", AdapterRecord), held(run)
    unsigned = Bundle(
        decision=decision,
        policy=run.policy().bytes,
        data=run.require("data-report", DataReport),
        adapter=adapter,
        evaluation=run.require("evaluation-report", EvaluationReport),
        adapter_dir=run.path / "adapter",
        stages=signed_stages(run, ticket, now) if ticket else {},
    )
    sealed = seal(unsigned, key, earlier=_earlier(run))
    write_atomically(run.path / ENVELOPE, sealed.envelope)
    return sealed


def promote_run(
    path: Path,
    *,
    tracking_uri: str,
    key: PrivateKey,
    now: datetime,
    artifact_location: str | None = None,
    policy: LoadedPolicy | None = None,
) -> tuple[Decision, RegistryRecord]:
    """Decide on the run at ``path``, log the decision, and register the adapter if it passed.

    Under another ``policy``, see :func:`decide_run`. A denial of a run with a ticket is handed to the gated server at
    ``tracking_uri``, for its ledger; where there is none, that is logged as a warning.

    Raises:
        ServiceUnavailable: the MLflow server does not answer; nothing is half-registered.
        AwaitingApproval: the gated server admitted the evidence, and persons must approve.
        EvidenceMissing: there is a ticket, and a stage has not signed what its record is now.
        EvidenceInvalid: MLflow would have artifacts written elsewhere than through the server, beside the store, or
            below ``artifact_location``.
    """
    from guardrail.registry.record.promote import promote

    run = Run(path)
    with run.locked():
        decision = decide_run(run, now, policy)
        if policy is not None:
            run.adopt(policy)
        sealed = bundle(run, decision, key, now)
        page = (nofollow.read(run.path / PAGE) or b"").decode()
        record = promote(
            sealed, tracking_uri=tracking_uri, private_key=key, now=now, page=page, artifact_location=artifact_location
        )
        run.write("registry-record", record)
        if decision.verdict is not Verdict.PASSED and sealed.stages:
            _hand_in_denial(run, tracking_uri, sealed)
    return decision, record


def _hand_in_denial(run: Run, tracking_uri: str, sealed: Bundle) -> None:
    """The denial is recorded by now: that there is no gate here to tell must not read as if it were not."""
    from guardrail.registry.gate.client import GateClient, NoGateError

    try:
        GateClient(tracking_uri).submit(sealed.envelope)
    except NoGateError as error:
        log.warning(
            "the denial is recorded in MLflow, but the gate that gave the ticket was not told: %s\n"
            "  next: guardrail promote --run %s --key KEY --tracking-uri GATE_URI",
            error.got,
            run.path,
        )


def _earlier(run: Run) -> bytes:
    """The envelope that was signed before; ECDSA would sign the same decision differently each time."""
    return nofollow.read(run.path / ENVELOPE) or b""
