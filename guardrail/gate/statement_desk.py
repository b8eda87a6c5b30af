"""What becomes of an envelope that somebody hands in: who may say it, whether it is about something here, what it does.

    train       binds a ticket to the adapter that was made with it, before that is measured
    decision    a denial is written down; it spends the ticket
    approve     a yes or a no of a person about evidence that waits; the last yes completes the promotion
    rollback    an alias moves back
    revocation  an adapter is out

Each is verified, then judged, then kept and written to the ledger in one step, then done. So what is refused leaves
nothing on the disk. Handing the same in twice changes nothing.
Not covered: HTTP (``gate/app/routes.py``), and the registry's own tables (:class:`Registry`, which ``registrar.py``
is).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from guardrail.errors import AwaitingApproval, EvidenceInvalid, PolicyDenied
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import LARGEST, signers, unverified_payload, verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.ledger.entries import LONGEST_NOTE, Head
from guardrail.evidence.statements import decision_statement, orders, stage_statement
from guardrail.evidence.statements.orders import Revocation, Rollback
from guardrail.evidence.statements.stage_statement import Approval, StageStatement
from guardrail.evidence.trust.trust_file import GuardedModel, Role
from guardrail.gate.admission import Admission, Court, protected_alias
from guardrail.gate.ledger.journal import Draft, Journal, Unneeded, draft
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.ticket_office import bind, bound_ticket
from guardrail.records import Verdict
from guardrail.registry.gate.protocol import Submitted


class Registry(Protocol):
    """What carrying out a statement asks of the registry."""

    def guarded_model(self, name: str) -> GuardedModel:
        """The guarded model of exactly this name."""

    def judge(self, found: Admitted, votes: Sequence[bytes]) -> Admission:
        """Check admitted evidence again, with these votes about it."""

    def complete(self, found: Admitted) -> str:
        """Make the version of admitted evidence and move its alias there; the version.

        Raises:
            AwaitingApproval: more persons must agree.
        """

    def mark_revoked(self, manifest: str = "") -> int:
        """Have the versions of a revoked adapter say so in MLflow."""

    def roll_back(self, order: Rollback, envelope: bytes, persons: tuple[str, ...]) -> Head:
        """Move the alias back, after writing it down with the order's envelope; the entry."""


@dataclass(frozen=True)
class Desk:
    """Where statements are handed in."""

    journal: Journal
    registry: Registry
    court: Court

    def take(self, envelope: bytes) -> Submitted:
        """Verify an envelope and do what it says.

        Raises:
            EvidenceInvalid: it is not for whoever signed it to say, or not about anything here.
            PolicyDenied: somebody who may approve said no.
            AwaitingApproval: a rollback asks for more persons than signed it.
        """
        if len(envelope) > LARGEST:
            raise EvidenceInvalid("the envelope is too large", expected=f"at most {LARGEST} bytes")
        payload = unverified_payload(envelope)
        if f'"predicateType":"{decision_statement.PREDICATE}"'.encode() in payload:
            return self._denial(envelope)
        if orders.is_order(envelope):
            return self._order(envelope)
        said = stage_statement.parse(payload)
        if said.stage == "train":
            return self._binding(envelope)
        if said.stage == "approve":
            return self._vote(envelope)
        raise EvidenceInvalid(
            f"a statement of the stage {said.stage} is not handed in by itself", expected="it travels with the evidence"
        )

    def _binding(self, envelope: bytes) -> Submitted:
        said = self._by_role(envelope, "train")
        bound, now = said.bound, self.court.now
        ended = expired(said.predicate.expires, now)
        if not said.predicate.not_before <= now or ended or bound.manifest is None:
            raise EvidenceInvalid("the train statement is not valid now", expected=f"one that is valid at {now}")
        known = bind(self.journal, self.court.trust, said, envelope, now)
        return _recorded(known.head, bound.model, bound.alias).model_copy(update={"attempt": known.attempt})

    def _denial(self, envelope: bytes) -> Submitted:
        decision = decision_statement.parse(verify(envelope, self.court.trust.keys_of("decide"))).predicate.decision
        if decision.verdict is Verdict.PASSED:
            raise EvidenceInvalid("the decision is PASSED", expected="a denial; promote what passed")
        protected = protected_alias(self.registry.guarded_model(decision.model), decision.alias)
        if decision.policy != protected.policy:
            raise EvidenceInvalid(
                f"the denial was made under the policy {decision.policy}", expected=f"{protected.policy}, as pinned"
            )
        nonce = bound_ticket(decision, self.journal.state())
        evidence = sha256(envelope)
        broken = ", ".join(f.rule for f in decision.findings if f.verdict is not Verdict.PASSED)

        def deny(state: LedgerState) -> Draft:
            if evidence in state.closed.values():  # refused as a proposal, it spent nothing
                raise Unneeded
            return draft(
                "denial",
                model=decision.model,
                alias=decision.alias,
                nonce=nonce,
                evidence=evidence,
                subject=decision.manifest,
                said=envelope,
                note=f"{decision.verdict}: {broken}"[:LONGEST_NOTE],
            )

        return _recorded(self.journal.append(deny), decision.model, decision.alias)

    def _vote(self, envelope: bytes) -> Submitted:
        said = self._by_role(envelope, "approve")
        approval = said.predicate.approval or Approval(approved=False)
        found = self._about(said)
        if sha256(envelope) in self.journal.state().votes.get(found.evidence, []):
            return self._again(found, approval)
        self._require_fitting(found, said, envelope)
        digest = sha256(envelope)
        who = ", ".join(self.court.trust.persons_of(signers(envelope)))

        def vote(state: LedgerState) -> Draft:
            if digest in state.votes.get(found.evidence, []):
                raise Unneeded
            if found.evidence in state.rejected:
                raise EvidenceInvalid("somebody rejected this evidence already", expected="evidence that waits")
            if found.evidence in state.promoted:
                raise EvidenceInvalid(
                    "this evidence was promoted already",
                    expected="evidence that waits",
                    next_step="nothing waits any more; guardrail registry revoke takes an adapter out",
                )
            return draft(
                "approval" if approval.approved else "rejection",
                model=found.model,
                alias=found.alias,
                evidence=found.evidence,
                subject=found.manifest,
                nonce=found.nonce,
                said=envelope,
                note=f"{who}: {approval.reason}"[:LONGEST_NOTE],
            )

        head = self.journal.append(vote)
        return self._completed(found, head) if approval.approved else _recorded(head, found.model, found.alias)

    def _again(self, found: Admitted, approval: Approval) -> Submitted:
        """The answer to a vote that was taken already: from the ledger alone while more must agree."""
        noted = _recorded(self.journal.end(), found.model, found.alias)
        if not approval.approved or found.evidence in self.journal.state().rejected:
            return noted
        if missing := self._missing(found):
            return noted.model_copy(update={"state": "waiting", "missing": missing})
        return self._completed(found, self.journal.end())

    def _require_fitting(self, found: Admitted, said: StageStatement, envelope: bytes) -> None:
        """A vote that does not fit the evidence would make all of it invalid, at once or when it expires."""
        with suppress(PolicyDenied):
            judged = self.registry.judge(found, [*self.journal.votes(found.evidence), envelope])
            needed = judged.chain.evaluate.predicate.expires
            if said.predicate.expires < needed:
                raise EvidenceInvalid(
                    f"the approval expires at {said.predicate.expires}",
                    expected=f"{needed}, as the evaluation does",
                    next_step="guardrail approve signs such a one",
                )

    def _completed(self, found: Admitted, head: Head) -> Submitted:
        noted = _recorded(head, found.model, found.alias)
        try:
            version = self.registry.complete(found)
        except AwaitingApproval:
            return noted.model_copy(update={"state": "waiting", "missing": self._missing(found)})
        return noted.model_copy(update={"state": "promoted", "version": version, "entry": self.journal.end()})

    def _missing(self, found: Admitted) -> int:
        needed = protected_alias(self.registry.guarded_model(found.model), found.alias).approvals
        return max(0, needed - len(approved_by(self.journal, self.court, found.evidence)))

    def _order(self, envelope: bytes) -> Submitted:
        trust, now = self.court.trust, self.court.now
        order, persons = orders.verified(envelope, trust, persons=1, now=now)
        if isinstance(order, Revocation):
            return self._revocation(order, envelope, persons)
        guarded = self.registry.guarded_model(order.model)
        needed = protected_alias(guarded, order.alias).approvals
        orders.verified(envelope, trust, persons=needed, now=now)
        head = self.registry.roll_back(order, envelope, persons)
        return Submitted(
            state="rolled-back", entry=head, model=order.model, alias=order.alias, version=order.to_version
        )

    def _revocation(self, order: Revocation, envelope: bytes, persons: tuple[str, ...]) -> Submitted:
        note = f"{', '.join(persons)}: {order.reason}"[:LONGEST_NOTE]

        def revoke(state: LedgerState) -> Draft:
            if order.manifest in state.revoked:
                raise Unneeded
            return draft("revocation", subject=order.manifest, said=envelope, note=note)

        head = self.journal.append(revoke)
        self.registry.mark_revoked(order.manifest)
        return _recorded(head)

    def _by_role(self, envelope: bytes, role: Role) -> StageStatement:
        """A stage's statement, signed by keys of its role and by no other."""
        return stage_statement.parse(verify(envelope, self.court.trust.keys_of(role)))

    def _about(self, said: StageStatement) -> Admitted:
        """The admitted evidence that a vote is about: of its nonce, with its adapter, from its evaluation."""
        state = self.journal.state()
        evidence = state.closed.get(said.bound.nonce, "")
        found = state.admitted.get(evidence)
        if found is None or found.manifest != said.bound.manifest:
            raise EvidenceInvalid(
                "nothing that was admitted here is what this statement is about",
                expected="evidence that waits here, by its nonce and adapter",
                next_step="guardrail approve NAME@ALIAS",
            )
        return found


def approved_by(journal: Journal, court: Court, evidence: str) -> tuple[str, ...]:
    """The persons behind the votes about evidence that waits: all of them agreed, for one no ends the waiting."""
    found: set[str] = set()
    for vote in journal.votes(evidence):
        found |= set(court.trust.persons_of(signers(vote)))
    return tuple(sorted(found))


def _recorded(head: Head, model: str = "", alias: str = "") -> Submitted:
    return Submitted(state="recorded", entry=head, model=model, alias=alias)
