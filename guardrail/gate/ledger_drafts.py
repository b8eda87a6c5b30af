"""What the registrar writes down, each entry judged once more on what the ledger says as it is written.

Another worker may have rejected, revoked, spent or moved something since the evidence was looked at. What is written
already is not written twice, so asking again after a crash changes nothing.
Not covered: judging evidence (``admission.py``), and what becomes of the registry (``registrar.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from guardrail.errors import EvidenceInvalid, GuardrailError, PolicyDenied
from guardrail.evidence.digest import digest, sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.ledger.entries import LONGEST_NOTE
from guardrail.evidence.statements.decision_statement import parse
from guardrail.evidence.statements.orders import Rollback
from guardrail.evidence.trust.trust_file import GuardedModel, Trust
from guardrail.gate.admission import Admission, require_not_revoked
from guardrail.gate.ledger.journal import Draft, Journal, Unneeded, draft
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState

ALONE = "ONE PERSON MAY TRAIN, EVALUATE AND APPROVE"
KEPT = re.compile(r"sealed/([0-9a-f]{64}) models:/(\S+)")


@dataclass(frozen=True)
class Kept:
    """Where the files of admitted evidence lie (the sealed directory's digest), and which logged model it was."""

    sealed: str
    model_id: str

    @classmethod
    def of(cls, found: Admitted) -> Kept:
        """As the ledger says.

        Raises:
            EvidenceInvalid: it does not say.
        """
        match = KEPT.fullmatch(found.note)
        if match is None:
            raise EvidenceInvalid(
                f"the ledger does not say where the evidence {found.evidence} lies",
                expected=KEPT.pattern,
                next_step="guardrail registry doctor",
            )
        return cls(match[1], match[2])

    def note(self) -> str:
        """How the ledger says it."""
        return f"sealed/{self.sealed} models:/{self.model_id}"


def note_trust(journal: Journal, trust: Trust, envelope: bytes = b"") -> None:
    """A trust file of a higher version is in force; whether it lets one person do everything.

    Its envelope is kept, so that a worker which never saw the file still knows which names it guards.

    Raises:
        EvidenceInvalid: another one is in force, a later one or of the same version.
    """

    def note(state: LedgerState) -> Draft:
        state.require_in_force(trust)
        if state.trust_version == trust.version and (state.trust_statement or not envelope):
            raise Unneeded
        alone = trust.one_person_may_train_evaluate_and_approve
        return draft(
            "trust", version=str(trust.version), subject=digest(trust), note=ALONE if alone else "", said=envelope
        )

    journal.append(note)


def note_admitted(journal: Journal, admission: Admission, kept: Kept) -> None:
    """The evidence holds, and its files are sealed; it spends the ticket.

    Raises:
        EvidenceInvalid: the ticket was spent or the adapter revoked meanwhile.
    """
    decision, evidence = admission.examined.decision, admission.examined.evidence_sha256

    def admitted(state: LedgerState) -> Draft:
        if evidence in state.admitted:
            raise Unneeded
        require_not_revoked(decision.manifest, state)
        if spent := state.closed.get(admission.nonce):
            raise EvidenceInvalid(
                f"the ticket was spent meanwhile by the evidence {spent}",
                expected="a ticket for each attempt",
                next_step="start a new run with --gate",
            )
        return draft(
            "decision",
            model=decision.model,
            alias=decision.alias,
            evidence=evidence,
            subject=decision.manifest,
            nonce=admission.nonce,
            note=kept.note(),
        )

    journal.append(admitted)


def note_refused(journal: Journal, envelope: bytes, guarded: GuardedModel, why: GuardrailError) -> None:
    """Signed evidence was refused, and why; once, and only of an adapter that a ticket for this model is bound to.

    Whoever proposes shows no key, and decisions can be read by anybody: proposing them elsewhere writes nothing.
    """
    evidence, decision = sha256(envelope), parse(unverified_payload(envelope)).predicate.decision
    place = (guarded.name, decision.alias)

    def refused(state: LedgerState) -> Draft:
        tried = decision.model == guarded.name and any(
            bound.manifest == decision.manifest and (state.tickets[nonce].model, state.tickets[nonce].alias) == place
            for nonce, bound in state.bound.items()
            if nonce in state.tickets
        )
        if not tried or evidence in state.denied or evidence in state.admitted:
            raise Unneeded
        return draft("denial", model=guarded.name, evidence=evidence, note=f"refused: {why.got}"[:LONGEST_NOTE])

    journal.append(refused)


def note_promotion(journal: Journal, admission: Admission, version: str) -> None:
    """The alias is about to move to this version, which holds this evidence.

    Raises:
        EvidenceInvalid: the adapter was revoked, or later evidence promoted, meanwhile.
        PolicyDenied: somebody rejected the evidence meanwhile.
    """
    decision, alone = admission.examined.decision, admission.chain.one_person_may_train_evaluate_and_approve
    entry = draft(
        "promotion",
        model=decision.model,
        alias=decision.alias,
        version=version,
        subject=decision.manifest,
        evidence=admission.examined.evidence_sha256,
        nonce=admission.nonce,
        note=ALONE if alone else "",
    )
    place, evidence = (decision.model, decision.alias), admission.examined.evidence_sha256

    def promoted(state: LedgerState) -> Draft:
        found, stands = admitted(state, evidence), state.stands.get(place)
        if stands is not None and stands.is_at(version, found):  # a crash came between the entry and the move
            raise Unneeded
        _require_unopposed(evidence, decision.manifest, state)
        require_forward(found, version, state)
        return entry

    journal.append(promoted)


def note_rollback(journal: Journal, order: Rollback, envelope: bytes, persons: tuple[str, ...], evidence: str) -> None:
    """The alias is about to move back, as these persons ordered.

    Raises:
        EvidenceInvalid: the alias moved, or the adapter was revoked, meanwhile.
        PolicyDenied: somebody rejected the evidence of the target meanwhile.
    """

    def rolled_back(state: LedgerState) -> Draft:
        if state.moved_by.get((order.model, order.alias)) == sha256(envelope):
            raise Unneeded
        require_unmoved(order, state)
        _require_unopposed(evidence, order.manifest, state)
        require_free(admitted(state, evidence), order.to_version, state)
        note = f"{', '.join(persons)}, from {order.from_version}: {order.reason}"[:LONGEST_NOTE]
        return draft(
            "rollback",
            model=order.model,
            alias=order.alias,
            version=order.to_version,
            evidence=evidence,
            subject=order.manifest,
            said=envelope,
            note=note,
        )

    journal.append(rolled_back)


def admitted(state: LedgerState, evidence: str) -> Admitted:
    """Evidence that the ledger admitted.

    Raises:
        EvidenceInvalid: it did not.
    """
    found = state.admitted.get(evidence)
    if found is None:
        raise EvidenceInvalid(
            f"the ledger never admitted the evidence {evidence}",
            expected="evidence that was admitted here",
            next_step="promote the adapter with `guardrail promote`",
        )
    return found


def require_forward(found: Admitted, version: str, state: LedgerState) -> None:
    """Evidence that the alias has not been at, complete after all that it was at, under a number of its own.

    What was rolled back does not come back by itself. Where the version of the evidence that the alias stands at was
    lost, the same evidence under a new number is no step back.

    Raises:
        EvidenceInvalid: it is no step forward.
    """
    place, order = (found.model, found.alias), "guardrail registry rollback, signed by who may approve"
    if state.overtaken(found):
        raise EvidenceInvalid(
            f"{found.model}@{found.alias} has moved on from the evidence {found.evidence}; moving it there again is "
            "no step forward",
            expected="evidence that was complete later",
            next_step=order,
        )
    highest = state.highest.get(place, 0)
    if not int(version) > highest:
        raise EvidenceInvalid(
            f"{found.model}@{found.alias} has pointed at version {highest}; moving it to {version} is no step forward",
            expected="a later version",
            next_step=order,
        )
    require_free(found, version, state)


def require_free(found: Admitted, version: str, state: LedgerState) -> None:
    """No entry names this number for other evidence.

    Raises:
        EvidenceInvalid: one does.
    """
    if not state.may_name(found.model, version, found):
        given = state.named[(found.model, version)]
        raise EvidenceInvalid(
            f"{found.model} version {version} holds the evidence {found.evidence}",
            expected=f"{given.evidence or given.manifest}, for which entry {given.entry} named that number",
            next_step="guardrail registry doctor",
        )


def _require_unopposed(evidence: str, manifest: str, state: LedgerState) -> None:
    """Asked as the entry is written: somebody may have said no since the evidence was judged."""
    require_not_revoked(manifest, state)
    if evidence in state.rejected:
        raise PolicyDenied(f"somebody rejected the evidence {evidence}", expected="evidence that nobody rejected")


def require_unmoved(order: Rollback, state: LedgerState) -> None:
    """The order names an entry of this ledger, and the alias has not moved since.

    Raises:
        EvidenceInvalid: it does not, or it has.
    """
    signed_at, moved_at = state.numbers.get(order.ledger), state.moved_at.get((order.model, order.alias), 0)
    if signed_at is None or signed_at < moved_at:
        raise EvidenceInvalid(
            f"the alias has moved since the order was signed (entry {moved_at}), or the order names no entry",
            expected="the digest of an entry of this ledger since then",
            next_step="sign a new order",
        )
