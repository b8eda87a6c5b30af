"""What the stages' statements must bind, computed from the records themselves: both who signs and who checks ask here.

Not covered: signatures and order (``stage_chain.py``), and whether the records belong together (``policy/decide.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.chain.stage_chain import Chain
from guardrail.evidence.digest import digest
from guardrail.evidence.statements.stage_statement import Approval, Binding, Stage, StagePredicate, SuiteDigest, build
from guardrail.evidence.statements.tickets import Ticket, seed_of
from guardrail.records import AdapterRecord, DataReport, Decision, EvaluationReport, Measurement, ModelRef


def bound_of(
    ticket: Ticket,
    policy: str,
    base: ModelRef,
    data: DataReport,
    adapter: AdapterRecord | None = None,
    evaluation: EvaluationReport | None = None,
) -> Binding:
    """What a stage binds that knows these records: the data stage the first alone, training two, evaluation all."""
    measured = evaluation.measurements if evaluation else ()
    return Binding(
        model=ticket.model,
        alias=ticket.alias,
        policy=policy,
        nonce=ticket.nonce,
        base=base,
        dataset=data.training_digest,
        manifest=adapter.manifest if adapter else None,
        suites=suites(measured),
        judges=judges(measured) if evaluation else None,
    )


def suites(measured: Sequence[Measurement]) -> tuple[SuiteDigest, ...]:
    """Every suite and task that was measured, once, by name."""
    found = {measurement.suite: measurement.suite_digest for measurement in measured}
    return tuple(SuiteDigest(name=name, digest=found[name]) for name in sorted(found))


def judges(measured: Sequence[Measurement]) -> str:
    """The digest of the cards of every judge that was asked, by name."""
    cards = {measurement.judge.name: measurement.judge for measurement in measured}
    return digest([cards[name].model_dump(mode="json") for name in sorted(cards)])


def statement(
    stage: Stage,
    bound: Binding,
    record: str,
    *,
    after: str | None,
    ledger: str,
    not_before: datetime,
    expires: datetime,
    approval: Approval | None = None,
) -> bytes:
    """The canonical bytes that the stage signs."""
    return build(
        stage,
        StagePredicate(
            bound=bound,
            record=record,
            after=after,
            ledger=ledger,
            not_before=not_before,
            expires=expires,
            approval=approval,
        ),
    )


def require_bound(
    chain: Chain, decision: Decision, data: DataReport, adapter: AdapterRecord, evaluation: EvaluationReport
) -> None:
    """The statements are about exactly the records that the decision was made from.

    Raises:
        EvidenceInvalid: a statement names or binds something else.
    """
    for stage, said, record in (
        ("data", chain.data, decision.data),
        ("train", chain.train, decision.adapter),
        ("evaluate", chain.evaluate, decision.evaluation),
    ):
        if said.predicate.record != record:
            raise EvidenceInvalid(f"the {stage} statement names another record", expected=record)
    bound = chain.bound
    true = (
        ("base", adapter.base),
        ("base", evaluation.base),
        ("dataset", data.training_digest),
        ("manifest", adapter.manifest),
        ("suites", suites(evaluation.measurements)),
        ("judges", judges(evaluation.measurements)),
        ("waivers", None),
        ("policy", decision.policy),
        ("model", decision.model),
        ("alias", decision.alias),
    )
    for name, value in true:
        if getattr(bound, name) != value:
            raise EvidenceInvalid(
                f"the statements bind another {name} than the records show", expected="what the records show"
            )
    if evaluation.seed != seed_of(bound.nonce):
        raise EvidenceInvalid(
            f"the evaluation was seeded with {evaluation.seed}",
            expected=f"{seed_of(bound.nonce)}, which the nonce gives",
        )
