"""Everything that an auditor asks of one version: what was measured, who signed, who agreed, how often it was tried.

An expired or revoked version is accounted for as well; ``holds`` says whether it would verify now. Its evidence must
hold together and be signed by a key that counts, else there is nothing to account for.
Not covered: rendering (``commands/_registry_text.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from guardrail.errors import GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence import envelope
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.trust.trust_file import Trust
from guardrail.records import AdapterRecord, Count, DataReport, Decision, EvaluationReport, Frozen, Sha256, Utc
from guardrail.registry.audit.ledger_reader import History, unverified_history
from guardrail.registry.audit.stage_evidence import Authority, StageSigners, names, stage_signers, votes_of
from guardrail.registry.audit.verify_trusted import judge_trusted
from guardrail.registry.audit.where_alias_stands import unresolved
from guardrail.registry.gate.client import GateClient
from guardrail.registry.read.reader import Reader, Spec, StoredVersion, UnresolvedError
from guardrail.registry.verify.evidence_checks import Examined
from guardrail.registry.verify.verify import fetched, judge, reader, workplace


class Voted(Frozen):
    """A person's yes or no, as they signed it."""

    persons: tuple[str, ...]
    approved: bool
    reason: str
    time: Utc


class Account(Frozen):
    """One version. ``holds`` is empty where it verifies now, else why it does not. ``valid_until`` is when the first of
    decision and statements expires.

    ``attempt`` is the try that this was, ``attempts`` how many adapters the alias ever saw (None: no ledger).
    ``ledger_checked`` says whether the ledger's signatures were looked at.
    """

    spec: str
    version: str
    holds: str
    evidence_sha256: Sha256
    valid_until: datetime
    decision: Decision
    data: DataReport
    adapter: AdapterRecord
    evaluation: EvaluationReport
    decided_by: tuple[str, ...]
    stages: tuple[StageSigners, ...]
    votes: tuple[Voted, ...]
    attempt: Count
    attempts: Count | None
    ledger_checked: bool
    one_person_may_train_evaluate_and_approve: bool


@dataclass(frozen=True)
class Believed:
    """By whom a signature counts: the keys, and the trust file they come from, where there is one."""

    keys: tuple[PublicKey, ...]
    trust: Trust | None


def account(spec: Spec, *, tracking_uri: str, believed: Believed, now: datetime) -> Account:
    """Read one version and everything about it.

    Raises:
        EvidenceInvalid: its evidence does not hold together or is signed by somebody else.
        InvalidInput: no such version; or a trust file was given and there is no gated server.
    """
    trust = believed.trust
    authority = Authority(trust, GateClient(tracking_uri), now) if trust else None
    history = authority.history() if authority else _told(tracking_uri)
    with workplace() as place, reader(tracking_uri) as source:
        stands = _stands(source, spec, history)
        examined = fetched(place, source, stands.stored, believed.keys)
    decision = examined.decision
    return Account(
        spec=str(spec),
        version=stands.stored.version,
        holds=stands.refused or _holds(spec, stands.stored, examined, now, authority, history),
        evidence_sha256=examined.evidence_sha256,
        valid_until=examined.valid_until,
        decision=decision,
        data=examined.data,
        adapter=examined.adapter,
        evaluation=examined.evaluation,
        decided_by=names(examined.signed_by, trust),
        stages=stage_signers(examined, trust),
        votes=_votes(examined, tracking_uri, history, trust),
        attempt=decision.attempt,
        attempts=history.attempts(decision.model, decision.alias) if history else None,
        ledger_checked=history.checked if history else False,
        one_person_may_train_evaluate_and_approve=bool(trust and trust.one_person_may_train_evaluate_and_approve),
    )


@dataclass(frozen=True)
class _Stands:
    """The version that was asked for; ``refused`` is why the server does not resolve it, where it does not."""

    stored: StoredVersion
    refused: str


def _stands(source: Reader, spec: Spec, history: History | None) -> _Stands:
    try:
        return _Stands(source.version(spec), "")
    except UnresolvedError as error:
        if history is None:
            raise
        return _Stands(unresolved(source, spec, history, error), error.got)


def _holds(
    spec: Spec,
    stored: StoredVersion,
    examined: Examined,
    now: datetime,
    authority: Authority | None,
    history: History | None,
) -> str:
    try:
        found = judge(spec, stored, examined, now)
        if authority and history:
            judge_trusted(found, spec.alias, authority, history)
    except ServiceUnavailable:
        raise
    except GuardrailError as error:
        return error.got
    return ""


def _told(tracking_uri: str) -> History | None:
    """What the server says of its ledger; None where there is no gated server, which wrote nothing down."""
    try:
        return unverified_history(GateClient(tracking_uri))
    except InvalidInput:
        return None


def _votes(examined: Examined, tracking_uri: str, history: History | None, trust: Trust | None) -> tuple[Voted, ...]:
    if history is None:
        return ()
    votes = votes_of(examined.evidence_sha256, GateClient(tracking_uri), history)
    return tuple(_voted(data, trust) for data in votes)


def _voted(data: bytes, trust: Trust | None) -> Voted:
    """What was signed; by a key that the trust file lets approve, where there is one."""
    payload = envelope.verify(data, trust.keys_of("approve")) if trust else envelope.unverified_payload(data)
    said = parse(payload).predicate
    return Voted(
        persons=names(envelope.signers(data), trust),
        approved=bool(said.approval and said.approval.approved),
        reason=said.approval.reason if said.approval else "",
        time=said.not_before,
    )
