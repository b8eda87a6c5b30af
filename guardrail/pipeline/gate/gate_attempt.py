"""Which attempt at its gate a run is: the server counts it when it is told of the adapter, before that is measured.

``RUN/attempt.json`` keeps what the server answered. It is no evidence: the server knows its own count and refuses a
decision that was made as another attempt. Not covered: what a statement must say (``signing.py``).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, EvidenceMissing
from guardrail.evidence.digest import canonical
from guardrail.evidence.statements.stage_statement import Nonce
from guardrail.evidence.statements.tickets import Ticket
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, Frozen, Sha256

ATTEMPT = "attempt.json"


class GateAttempt(Frozen):
    """The ticket of ``nonce`` is bound to the adapter with this ``manifest``, the ``number``-th since the last
    promotion of the alias; ``ledger`` is the digest of the ledger's entry that says so."""

    nonce: Nonce
    manifest: Sha256
    number: Annotated[int, Field(ge=1)]
    ledger: Sha256


def known(run: Run, ticket: Ticket) -> GateAttempt | None:
    """The attempt of the run's adapter under this ticket, as the server counted it; None until it was told.

    Raises:
        EvidenceInvalid: what is kept is unreadable.
    """
    path, adapter = run.path / ATTEMPT, run.require("adapter", AdapterRecord)
    data = nofollow.read(path)
    if data is None:
        return None
    try:
        found = GateAttempt.model_validate_json(data)
    except ValidationError as error:
        raise EvidenceInvalid(f"{path} cannot be read", next_step=f"delete it, then {_command(run)}") from error
    return found if (found.nonce, found.manifest) == (ticket.nonce, adapter.manifest) else None


def require(run: Run, ticket: Ticket) -> GateAttempt:
    """Like :func:`known`, but where the server was not told, that is an error that names the command."""
    found = known(run, ticket)
    if found is None:
        raise EvidenceMissing(
            f"the gated server was not told of the adapter of {run.path}",
            expected="the ticket bound to the adapter before that is measured",
            next_step=_command(run),
        )
    return found


def tell(run: Run, ticket: Ticket, gate: str, trained: bytes) -> GateAttempt:
    """Hand in the training statement at ``gate``, which binds the ticket to the adapter; twice changes nothing.

    Raises:
        EvidenceInvalid: the gate refuses (the ticket is bound to another adapter, say), or answers no attempt.
        ServiceUnavailable: the gate does not answer.
        InvalidInput: there is no gate at this address.
    """
    from guardrail.registry.gate.client import GateClient

    said = GateClient(gate).submit(trained)
    if said.state != "recorded" or said.attempt < 1:
        raise EvidenceInvalid(
            f"the gated server answered {said.state!r}, attempt {said.attempt}",
            expected="which attempt this adapter is",
        )
    manifest = run.require("adapter", AdapterRecord).manifest
    made = GateAttempt(nonce=ticket.nonce, manifest=manifest, number=said.attempt, ledger=said.entry.digest)
    write_atomically(run.path / ATTEMPT, canonical(made))
    return made


def _command(run: Run) -> str:
    return f"guardrail evaluate --run {run.path} --gate URI --sign-key KEY"
