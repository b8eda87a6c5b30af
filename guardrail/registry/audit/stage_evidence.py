"""What the stages of a candidate signed, checked by a trust file against the records and the server's ledger.

Who verifies a version and who approves a candidate ask here. Not covered: the decision's own envelope
(``registry/verify/evidence_checks.py``), and what the registry says of versions and aliases
(``registry/verify/verify.py``, ``verify_trusted.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.bundle import SIGNED
from guardrail.evidence.chain.bound_records import require_bound
from guardrail.evidence.chain.stage_chain import Chain, ChainTarget, read_chain
from guardrail.evidence.envelope import signers
from guardrail.evidence.ledger.entries import Entry, Head
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias, Trust
from guardrail.records import Decision, Frozen
from guardrail.registry.audit.ledger_reader import History, handed_in, read_history
from guardrail.registry.gate.client import GateClient
from guardrail.registry.read.reader import Spec
from guardrail.registry.verify.evidence_checks import Examined
from guardrail.registry.verify.trust_requirements import require_promised


class StageSigners(Frozen):
    """Who signed a stage's statement."""

    stage: str
    persons: tuple[str, ...]


@dataclass(frozen=True)
class Authority:
    """Who is believed: a trust file that was checked, the gated server's answers as far as they verify, and a clock.

    ``head`` is an exported head of the ledger, where there is one.
    """

    trust: Trust
    gate: GateClient
    now: datetime
    head: Head | None = None

    def history(self) -> History:
        """The server's ledger, checked by the keys of the role ``server``."""
        return read_history(self.gate, self.trust.keys_of("server"), now=self.now, head=self.head)


def stages_of(examined: Examined, authority: Authority, history: History) -> Chain:
    """What the stages stated, after everything about it was checked against the records and the ledger.

    Whether enough persons agreed is asked elsewhere.

    Raises:
        EvidenceInvalid, EvidenceMissing, PolicyDenied: as :func:`read_chain` and :func:`require_bound`, or the ledger
            did not admit this evidence, or as another attempt; or the base is not pinned, or the policy promises less
            than the trust file asks.
    """
    decision = examined.decision
    require_promised(examined, authority.trust, guarded_model(authority.trust, _target_of(decision)))
    target = ChainTarget(decision.model, decision.alias, _admitted(history, examined).nonce)
    _require_attempt(history, examined, target)
    votes = votes_of(examined.evidence_sha256, authority.gate, history)
    chain = read_chain((*stage_envelopes(examined), *votes), authority.trust, target, now=authority.now)
    require_bound(chain, decision, examined.data, examined.adapter, examined.evaluation)
    return chain


def guarded_model(trust: Trust, spec: Spec) -> GuardedModel:
    """The model that ``spec`` names, as the trust file guards it; an alias that ``spec`` names is protected.

    Raises:
        InvalidInput: the trust file does not guard it.
    """
    found = next((model for model in trust.models if model.name == spec.name), None)
    if found is None or spec.alias not in (None, *(entry.alias for entry in found.aliases)):
        raise InvalidInput(
            f"{str(spec)!a} is not guarded by the trust file",
            expected="a guarded model and a protected alias, spelled as there",
            next_step="verify with --decider-key, or give the trust file that guards it",
        )
    return found


def protected_alias(trust: Trust, decision: Decision) -> ProtectedAlias:
    """The alias that was decided on, as the trust file protects it.

    Raises:
        InvalidInput: it does not.
    """
    guarded = guarded_model(trust, _target_of(decision))
    return next(entry for entry in guarded.aliases if entry.alias == decision.alias)


def _target_of(decision: Decision) -> Spec:
    return Spec(name=decision.model, alias=decision.alias)


def stage_envelopes(examined: Examined) -> tuple[bytes, ...]:
    """The statements of data, training and evaluation, in order.

    Raises:
        EvidenceMissing: they do not lie beside the evidence.
    """
    if set(examined.stages) != set(SIGNED):
        raise EvidenceMissing(
            "the stages did not sign this evidence",
            expected=f"statements of {', '.join(SIGNED)}",
            next_step="promote it with a ticket of the gated server",
        )
    return tuple(examined.stages[stage] for stage in SIGNED)


def stage_signers(examined: Examined, trust: Trust | None) -> tuple[StageSigners, ...]:
    """Who signed each stage: persons where a trust file is given, else the ids of keys."""
    return tuple(
        StageSigners(stage=stage, persons=names(signers(examined.stages[stage]), trust))
        for stage in SIGNED
        if stage in examined.stages
    )


def names(key_ids: tuple[str, ...], trust: Trust | None) -> tuple[str, ...]:
    """The persons behind keys; a key that nobody is known for is told as such."""
    known = {key: trust.person_of(key) for key in key_ids} if trust else {}
    return tuple(sorted({known.get(key) or f"key {key}" for key in key_ids}))


def votes_of(evidence: str, gate: GateClient, history: History) -> tuple[bytes, ...]:
    """The statements of everyone who approved or rejected this evidence.

    Raises:
        EvidenceInvalid: the ledger knows of one that the server does not give.
    """
    found = []
    for entry in history.votes(evidence):
        if entry.statement is None:
            raise EvidenceInvalid(f"entry {entry.number} is an {entry.kind}, but names no statement")
        found.append(handed_in(gate, entry.statement))
    return tuple(found)


def not_revoked(history: History, manifest: str) -> str:
    """What to say of an adapter that was not revoked.

    Raises:
        EvidenceInvalid: it was.
    """
    entry = history.revoked(manifest)
    if entry is not None:
        raise EvidenceInvalid(
            f"the adapter {manifest} was revoked at {entry.time} (entry {entry.number}): {entry.note!a}",
            expected="an adapter that is not revoked",
            next_step="promote another one",
        )
    return "not revoked"


def _admitted(history: History, examined: Examined) -> Entry:
    decision, entry = examined.decision, history.admitted(examined.evidence_sha256)
    if entry is None:
        raise EvidenceInvalid(
            f"the server's ledger did not admit the evidence {examined.evidence_sha256}",
            expected="an entry of the kind decision about it",
            next_step="it was put there without the gate, or before the model was guarded: promote again",
        )
    if (entry.model, entry.alias, entry.subject) != (decision.model, decision.alias, decision.manifest):
        raise EvidenceInvalid(f"entry {entry.number} admits another adapter than the evidence is about")
    return entry


def _require_attempt(history: History, examined: Examined, target: ChainTarget) -> None:
    """The adapter was bound to its ticket, and judged as the attempt that the ledger counts."""
    decision = examined.decision
    counted = history.attempt(target.model, target.alias, target.nonce, decision.manifest)
    if counted == 0 or decision.attempt != counted:
        raise EvidenceInvalid(
            f"the decision was made as attempt {decision.attempt}",
            expected=f"attempt {counted}, as the ledger counts" if counted else "an adapter that a ticket was bound to",
        )
