"""The evaluation stage within a run: measures what the policy's rules need, on the candidate and on its base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from guardrail.atomic import write_atomically
from guardrail.data.dataset import load_dataset
from guardrail.evaluate.engines import Engine, Reply, Request
from guardrail.evaluate.engines.transformers import TransformersEngine
from guardrail.evaluate.measure import Plan, Transcript, measure
from guardrail.evidence.digest import digest, file_sha256
from guardrail.evidence.statements.tickets import Ticket, seed_of, shuffled
from guardrail.model.adapter import load_adapter, strip_lora
from guardrail.pipeline import answer_errors
from guardrail.pipeline.artifacts import adapter_dir, clean_file, holds_clean_rows
from guardrail.pipeline.base import base_model, require_same_base
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.gate_plans import plan_all
from guardrail.pipeline.exam.leakage import check_rows
from guardrail.pipeline.gate import gate_attempt
from guardrail.pipeline.gate.run_ticket import held
from guardrail.pipeline.run import Run
from guardrail.policy.bases import require_pinned_base
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.stage_plans import evaluation_plan
from guardrail.printable import json_text
from guardrail.progress import Progress, Tick
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, Measurement

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

RESPONSES = "responses.jsonl"


@dataclass(frozen=True)
class Memo:
    """An engine that asks another only what it has not been asked before (the base is measured again and again)."""

    engine: Engine
    known: dict[str, Reply] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The engine behind."""
        return self.engine.name

    def answer(self, requests: Sequence[Request], progress: Tick | None = None) -> list[Reply]:
        """One reply per request; errors are not remembered."""
        keys = [digest(request) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.known}
        fresh = dict(zip(missing, self.engine.answer(list(missing.values()), progress), strict=True))
        self.known.update({key: reply for key, reply in fresh.items() if not reply.error})
        if progress:
            progress(len(requests) - len(missing))
        return [self.known.get(key) or fresh[key] for key in keys]


@dataclass(frozen=True)
class Said:
    """What the base said, errors included, before the adapter went into it: it is never asked again after that."""

    name: str
    replies: dict[str, Reply]

    def answer(self, requests: Sequence[Request], progress: Tick | None = None) -> list[Reply]:
        """The replies that were given."""
        del progress
        return [self.replies[digest(request)] for request in requests]


_MEMOS: dict[str, Memo] = {}


def check_evaluation(run: Run) -> None:
    """Refuse what cannot be measured, before a gate counts an attempt for it.

    Raises:
        EvidenceMissing: there is no adapter yet.
        EvidenceInvalid: the adapter's files are not those that were recorded.
        InvalidInput: a suite (a withheld one, say) or a task cannot be read here or is not the pinned one.
    """
    adapter_dir(run, run.require("adapter", AdapterRecord))
    list(plan_all(Exam.of(run)))


def evaluate_adapter(run: Run, progress: Progress | None = None, exam: Exam | None = None) -> EvaluationReport:
    """Run the evaluation stage, or return its record if nothing changed.

    ``exam``: what the run is examined by, where it was read already.

    Raises:
        EvidenceMissing: there is no adapter yet, or a ticket and the gated server was not told of the adapter.
        EvidenceInvalid: the adapter's files are not those that were recorded, or the run has a ticket and the base is
            not loaded as it was for training (the statements could not agree).
        InvalidInput: a suite or task cannot be loaded, the policy asks for utility and no task is named, or it pins
            another base.
    """
    exam = exam or Exam.of(run)
    policy, config = exam.policy, exam.config
    adapter = run.require("adapter", AdapterRecord)
    directory = adapter_dir(run, adapter)
    ticket = held(run)
    if ticket:
        gate_attempt.require(run, ticket)
    if holds_clean_rows(run, report := run.require("data-report", DataReport)):
        check_rows(exam, load_dataset(clean_file(run, report)).samples)
    plans = [_ordered(plan, ticket) for plan in plan_all(exam)]
    base = base_model(config.base, config.revision)
    require_pinned_base(policy, base.ref)
    if ticket:
        require_same_base(base.ref, adapter.base, "for training")
    plan = evaluation_plan(policy.policy)
    inputs = digest(
        {
            "stage": "evaluate",
            "plan": plan,
            "adapter": digest(adapter),
            "base": base.ref.digest,
            "plans": [[p.sli.value, p.suite, p.suite_digest, p.split, p.attack, p.judge.name] for p in plans],
            **({"nonce": ticket.nonce} if ticket else {}),
        }
    )
    responses = run.path / RESPONSES

    def intact(record: EvaluationReport) -> bool:
        whole = responses.exists() and file_sha256(responses) == record.responses
        return whole and not answer_errors.may_vanish(run)

    if kept := run.kept("evaluation-report", EvaluationReport, inputs, intact):
        return kept
    start = perf_counter()
    measurements, transcripts = _measure(policy, base, directory, plans, progress)
    write_atomically(responses, b"".join(map(_line, transcripts)))
    record = EvaluationReport(
        inputs=inputs,
        policy=policy.digest,
        plan=plan,
        adapter=digest(adapter),
        manifest=adapter.manifest,
        base=base.ref,
        engine="transformers",
        seed=seed_of(ticket.nonce) if ticket else adapter.seed,
        responses=file_sha256(responses),
        measurements=tuple(measurements),
        generation=policy.policy.generation.recorded,
        seconds=perf_counter() - start,
    )
    run.write("evaluation-report", record)
    return record


def _ordered(plan: Plan, ticket: Ticket | None) -> Plan:
    """Under a ticket, what is asked in the order that its nonce gives."""
    if ticket is None:
        return plan
    return replace(plan, asked=tuple(shuffled(list(plan.asked), ticket.nonce, f"{plan.suite}:{plan.attack}")))


def engines(policy: LoadedPolicy, base: BaseModel, model: Any) -> tuple[Engine, Engine]:
    """The candidate's engine and the base's; the base's answers are remembered within the process."""
    length, rows = policy.policy.generation.max_new_tokens, policy.policy.generation.batch_size
    key = digest({"base": base.ref.digest, "max_new_tokens": length, "batch_size": rows})
    memo = _MEMOS.setdefault(key, Memo(TransformersEngine(base, None, length, rows)))
    return TransformersEngine(base, model, length, rows), memo


def _measure(
    policy: LoadedPolicy, base: BaseModel, directory: Path, plans: Sequence[Plan], progress: Progress | None
) -> tuple[list[Measurement], list[Transcript]]:
    """The base first, without the adapter in it; then the candidate."""
    report = _counter(2 * sum(len(plan.asked) for plan in plans), progress)
    _, memo = engines(policy, base, None)
    said = Said(memo.name, {})
    for plan in plans:
        requests = [asked.request for asked in plan.asked]
        said.replies.update(zip(map(digest, requests), memo.answer(requests, report), strict=True))
    model = load_adapter(base, directory)
    try:
        candidate, _ = engines(policy, base, model)
        results = [measure(plan, _Reporting(candidate, report), said) for plan in plans]
    finally:
        strip_lora(base, model)
    return [m for m, _ in results], [t for _, ts in results for t in ts]


@dataclass(frozen=True)
class _Reporting:
    engine: Engine
    report: Tick | None

    @property
    def name(self) -> str:
        return self.engine.name

    def answer(self, requests: Sequence[Request], progress: Tick | None = None) -> list[Reply]:
        del progress
        return self.engine.answer(requests, self.report)


def _counter(total: int, progress: Progress | None) -> Tick | None:
    if progress is None:
        return None
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        progress("evaluating", done, total)

    return count


def _line(t: Transcript) -> bytes:
    row = {
        "sli": t.sli.value,
        "suite": t.suite,
        "attack": t.attack,
        "behaviour": t.behaviour,
        "who": t.who,
        "request": t.request.model_dump(),
        "reply": t.reply.model_dump(),
        "outcome": t.outcome.value,
    }
    return json_text(json.dumps(row, ensure_ascii=False)).encode() + b"\n"
