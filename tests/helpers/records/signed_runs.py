"""Runs whose stages have recorded and may sign, without training: records that hold, a real adapter, the real base.

Not a test file. Not covered: measuring. The records say what an adapter that kept its safety would show.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from policy_evidence import (
    adapter_record,
    data_report,
    evaluation_report,
    forgetful_measurements,
    safe_measurements,
)
from registry_bundles import POLICY, adapter_directory
from ticket_gate import ticket
from trust_files import ALIAS, MODEL, NOW, key, trust

from guardrail.atomic import write_atomically
from guardrail.evidence.digest import canonical, digest, manifest, manifest_digest, sha256
from guardrail.evidence.statements.stage_statement import Stage
from guardrail.evidence.statements.tickets import Ticket, seed_of
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias, Trust
from guardrail.pipeline.base import base_model
from guardrail.pipeline.gate.gate_attempt import ATTEMPT, GateAttempt
from guardrail.pipeline.gate.run_ticket import TICKET
from guardrail.pipeline.gate.signing import sign_stage
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import LoadedPolicy, load_policy_bytes
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, ModelRef

NUMBERS = {ticket(MODEL, ALIAS, number, NOW).nonce: number for number in range(1, 10)}
"""Which attempt a run is, by the nonce of its ticket."""
SIGNERS: dict[Stage, str] = {"data": "train", "train": "train", "evaluate": "evaluate"}


def policy(model: str = MODEL) -> LoadedPolicy:
    """The policy for the guarded model."""
    return load_policy_bytes(POLICY.format(model=model, alias=ALIAS).encode(), "policy.yaml")


def base() -> ModelRef:
    """The testbed's base, loaded as the data stage loads it."""
    ref: ModelRef = base_model("testbed").ref
    return ref


def pinned() -> Trust:
    """The usual cast, the model guarded under :func:`policy`; nobody has to approve."""
    alias = ProtectedAlias(alias=ALIAS, policy=policy().digest, approvals=0)
    return trust(models=(GuardedModel(name=MODEL, aliases=(alias,)),))


def started(
    path: Path, *, attempt: int = 1, now: datetime = NOW, tasks: tuple[str, ...] = (), model: str = MODEL
) -> Run:
    """A run with policy and ticket; ``attempt`` 0 is one without a ticket."""
    run = Run(path)
    run.start(policy(model), RunConfig(policy_source="policy.yaml", base="testbed", tasks=tasks))
    if attempt:
        write_atomically(path / TICKET, canonical(ticket(MODEL, ALIAS, attempt, now)))
    return run


def held_ticket(run: Run) -> Ticket:
    """The run's ticket."""
    return Ticket.model_validate_json((run.path / TICKET).read_bytes())


def record(run: Run, stage: Stage, change: str = "", *, safe: bool = True) -> None:
    """Write the record of a stage; another ``change`` gives another record, not ``safe`` one that is denied."""
    inputs = digest({"stage": stage, "change": change})
    if stage == "data":
        made = data_report(run.policy().digest)
        run.write("data-report", made.model_copy(update={"base": base().digest, "inputs": inputs}))
    elif stage == "train":
        run.write("adapter", _adapter(run).model_copy(update={"inputs": inputs}))
    else:
        adapter = run.require("adapter", AdapterRecord)
        report = evaluation_report(
            run.policy().digest, adapter, safe_measurements() if safe else forgetful_measurements()
        )
        run.write("evaluation-report", report.model_copy(update={"seed": _seed(run), "inputs": inputs}))


def signed(run: Run, *stages: Stage, now: datetime = NOW, safe: bool = True) -> Run:
    """Record and sign these stages (all of them, where none is named), each with its usual key."""
    for stage in stages or SIGNERS:
        record(run, stage, safe=safe)
        sign_stage(run, stage, key(SIGNERS[stage]), now)
        if stage == "train":
            tell(run)
    return run


def tell(run: Run) -> None:
    """As if the gate had been told of the adapter: the number of its attempt is that of the ticket."""
    if (run.path / TICKET).exists():
        nonce, manifest = held_ticket(run).nonce, run.require("adapter", AdapterRecord).manifest
        told = GateAttempt(nonce=nonce, manifest=manifest, number=NUMBERS[nonce], ledger=sha256(b"bound"))
        write_atomically(run.path / ATTEMPT, canonical(told))


def records(run: Run) -> tuple[DataReport, AdapterRecord, EvaluationReport]:
    """All three."""
    return (
        run.require("data-report", DataReport),
        run.require("adapter", AdapterRecord),
        run.require("evaluation-report", EvaluationReport),
    )


def _adapter(run: Run) -> AdapterRecord:
    directory = run.path / "adapter"
    files = manifest(directory if directory.exists() else adapter_directory(directory))
    made = adapter_record(run.policy().digest, run.require("data-report", DataReport))
    return made.model_copy(update={"files": files, "manifest": manifest_digest(files), "base": base()})


def _seed(run: Run) -> int:
    return seed_of(held_ticket(run).nonce) if (run.path / TICKET).exists() else 0
