"""What the stages of a run sign, each with its own key, where the run has a ticket: ``RUN/STAGE.dsse.json``.

A statement that says what the records show and is still valid is kept, so that running again changes nothing. A new one
removes those of later stages, which followed the old one. Not covered: whose key may sign what (the server's trust
file says so), and approvals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.bundle import stage_file
from guardrail.evidence.chain.bound_records import bound_of, statement
from guardrail.evidence.chain.expected_statement import ExpectedStatement, base_said, differs
from guardrail.evidence.chain.stage_chain import MADE
from guardrail.evidence.digest import digest, sha256
from guardrail.evidence.envelope import sign, verify
from guardrail.evidence.keys.key_pairs import PrivateKey, public_of
from guardrail.evidence.statements.earliest_expiry import expiry_of
from guardrail.evidence.statements.stage_statement import Stage
from guardrail.evidence.statements.tickets import Ticket
from guardrail.pipeline.gate import gate_attempt, run_ticket
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, ModelRef

COMMANDS: dict[Stage, str] = {
    "data": "guardrail data validate DATA",
    "train": "guardrail train",
    "evaluate": "guardrail evaluate",
}


def prepare(run: Run, stage: Stage, *, signs: bool, now: datetime) -> None:
    """Refuse before a stage works what would be refused after it.

    Args:
        run: the run.
        stage: which stage is to work.
        signs: whether its statement is to be signed.
        now: the time, in UTC.

    Raises:
        EvidenceInvalid: the run's ticket is broken or has expired.
        InvalidInput: there is a key but no ticket, so that there is nothing to bind a statement to.
        EvidenceMissing: a stage before has not signed what its record is now.
    """
    ticket = run_ticket.current(run, now)
    if not signs:
        return
    if ticket is None:
        raise InvalidInput(
            f"{run.path} has no ticket, and a statement must name one",
            expected="a run that was started with --gate URI",
            next_step="leave --sign-key out, or start in a new directory: guardrail data validate --gate URI --run DIR",
        )
    if stage != "data":
        base = run.require("adapter", AdapterRecord).base if stage == "evaluate" else None
        _Given(run, ticket, base, now).signed(_before(stage))


def require_base_of_data(run: Run, base: ModelRef) -> None:
    """Refuse to train a base that is not loaded as the data statement binds it: no later statement could follow it.

    Nothing happens without a ticket, or where the data stage has not signed.

    Raises:
        EvidenceInvalid: the base differs (by its type on this device, say), or the statement is none.
    """
    from guardrail.pipeline.base import require_same_base

    path = run.path / stage_file("data")
    envelope = nofollow.read(path)
    if run_ticket.held(run) is not None and envelope is not None:
        require_same_base(base, base_said(envelope), "in the data statement")


def bind(run: Run, gate: str | None, now: datetime) -> None:
    """Tell the gated server which adapter the run's ticket is for, before that is measured; nothing without a ticket.

    Raises:
        EvidenceMissing: data or training have not signed what their records are now, or no gate was named.
        EvidenceInvalid: the ticket is broken, has expired, or is bound to another adapter.
        ServiceUnavailable: the gate does not answer.
    """
    ticket = run_ticket.current(run, now)
    if ticket is None or gate_attempt.known(run, ticket) is not None:
        return
    base = run.require("adapter", AdapterRecord).base
    trained = _Given(run, ticket, base, now).signed(("data", "train"))["train"]
    if gate:
        gate_attempt.tell(run, ticket, gate, trained)
    else:
        gate_attempt.require(run, ticket)


def sign_stage(run: Run, stage: Stage, signer: PrivateKey | None, now: datetime) -> None:
    """Sign what the stage has just recorded; nothing happens without a signer or a ticket.

    Raises:
        EvidenceInvalid: the run's ticket is broken or has expired.
        EvidenceMissing: a stage before has not signed what its record is now.
        ServiceUnavailable: the key's service or the disk does not work now.
    """
    ticket = run_ticket.current(run, now)
    if signer is None or ticket is None:
        return
    given = _Given(run, ticket, _base(run, stage), now)
    before = given.signed(_before(stage))
    expected = given.expected(stage, before)
    if _kept(given.read(stage), expected, signer, now):
        return
    days = timedelta(days=run.policy().policy.evidence.valid_days)
    payload = statement(
        stage,
        expected.bound,
        expected.record,
        after=expected.after,
        ledger=expected.ledger,
        not_before=now,
        expires=now + days,
    )
    envelope = sign(payload, signer)
    for later in MADE[MADE.index(stage) + 1 :]:
        (run.path / stage_file(later)).unlink(missing_ok=True)
    write_atomically(run.path / stage_file(stage), envelope)


def signed_stages(run: Run, ticket: Ticket, now: datetime) -> dict[str, bytes]:
    """The envelopes of all stages, each about the record that is there now, in order.

    Raises:
        EvidenceMissing: a stage has not signed what its record is now; the message names the command.
    """
    base = run.require("evaluation-report", EvaluationReport).base
    found = _Given(run, ticket, base, now).signed(MADE)
    return {stage: found[stage] for stage in MADE}


def ends(run: Run) -> datetime | None:
    """When the first of the statements that are there expires; None without any. One that cannot be read says nothing
    here, and :func:`signed_stages` refuses it."""
    found: list[datetime] = []
    for path in (run.path / stage_file(stage) for stage in MADE):
        with suppress(EvidenceInvalid, FileNotFoundError):
            found.append(expiry_of(path.read_bytes()))
    return min(found, default=None)


@dataclass(frozen=True)
class _Given:
    """What statements are compared with; without ``base`` the data statement's own, as far as the record names it."""

    run: Run
    ticket: Ticket
    base: ModelRef | None
    now: datetime

    def signed(self, stages: Sequence[Stage]) -> dict[Stage, bytes]:
        """The envelopes of these stages, compared with the records."""
        found: dict[Stage, bytes] = {}
        for stage in stages:
            envelope = self.read(stage)
            wrong = differs(envelope, self.expected(stage, found), self.now) if envelope else "is missing"
            if wrong:
                raise EvidenceMissing(
                    f"the {stage} statement of {self.run.path} {wrong}",
                    expected=f"{stage_file(stage)}, signed over the records that are there now",
                    next_step=f"{COMMANDS[stage]} --run {self.run.path} --sign-key KEY",
                )
            found[stage] = envelope
        return found

    def read(self, stage: Stage) -> bytes:
        """The stage's envelope; empty where there is none."""
        return nofollow.read(self.run.path / stage_file(stage)) or b""

    def expected(self, stage: Stage, before: Mapping[Stage, bytes]) -> ExpectedStatement:
        """What the stage must state after those before it."""
        run, data = self.run, self.run.require("data-report", DataReport)
        adapter = run.require("adapter", AdapterRecord) if stage != "data" else None
        evaluation = run.require("evaluation-report", EvaluationReport) if stage == "evaluate" else None
        base = self.base or self._own_base(data)
        bound = bound_of(self.ticket, run.policy().digest, base, data, adapter, evaluation)
        after = sha256(before[_before(stage)[-1]]) if before else None
        ledger = gate_attempt.require(run, self.ticket).ledger if evaluation else self.ticket.ledger
        return ExpectedStatement(stage, bound, digest(evaluation or adapter or data), after, ledger)

    def _own_base(self, data: DataReport) -> ModelRef:
        base = base_said(self.read("data"))
        if base.digest != data.base:
            raise EvidenceInvalid("the data statement binds another base than the data report", expected=data.base)
        return base


def _before(stage: Stage) -> tuple[Stage, ...]:
    return MADE[: MADE.index(stage)]


def _base(run: Run, stage: Stage) -> ModelRef:
    """The base as the stage's own record has it; the data report has its digest alone."""
    if stage == "evaluate":
        return run.require("evaluation-report", EvaluationReport).base
    if stage == "train":
        return run.require("adapter", AdapterRecord).base
    from guardrail.pipeline.base import base_model

    config = run.config()
    if config is None:
        raise InvalidInput(f"{run.path} is not a run")
    ref: ModelRef = base_model(config.base, config.revision).ref
    return ref


def _kept(earlier: bytes, expected: ExpectedStatement, signer: PrivateKey, now: datetime) -> bool:
    """Whether the envelope that is there says the same, by the same key, and still holds."""
    try:
        verify(earlier, [public_of(signer)])
    except EvidenceInvalid:
        return False
    return not differs(earlier, expected, now)
