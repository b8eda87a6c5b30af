"""Whether the stages' statements make one chain: each signed by who may, about the same things, in order and in time.

Pure: statements, a trust file that was checked, the nonce and a clock go in; what was stated comes out. An envelope may
carry several signatures; every one of them must be by a key of the stage's role.
Not covered: making the decision again from the records that the statements name (``policy/decide.py`` and the server),
single use of the nonce, and whether the adapter's files have the digests that are bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from guardrail.errors import AwaitingApproval, EvidenceInvalid, EvidenceMissing, InvalidInput, PolicyDenied
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import signers, unverified_payload, verify
from guardrail.evidence.expiry import expired
from guardrail.evidence.statements.stage_statement import Binding, Stage, StageStatement, parse
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, ProtectedAlias, Trust
from guardrail.names import same
from guardrail.records import Frozen

MADE: tuple[Stage, ...] = ("data", "train", "evaluate")


@dataclass(frozen=True)
class ChainTarget:
    """Where the candidate is to go, and the nonce that the server issued for it."""

    model: str
    alias: str
    nonce: str


class Chain(Frozen):
    """What the stages stated together.

    ``approved_by`` are the persons who agreed; ``expires`` is when the first of the statements does;
    ``one_person_may_train_evaluate_and_approve`` is the trust file's, to be shown wherever the chain is.
    """

    data: StageStatement
    train: StageStatement
    evaluate: StageStatement
    approved_by: tuple[str, ...]
    expires: datetime
    one_person_may_train_evaluate_and_approve: bool

    @property
    def bound(self) -> Binding:
        """What all of them are about; the evaluation states all of it."""
        return self.evaluate.bound


@dataclass(frozen=True)
class _SignedStage:
    """A statement whose signatures are good, and the persons behind them."""

    statement: StageStatement
    digest: str
    persons: tuple[str, ...]

    @property
    def stage(self) -> Stage:
        return self.statement.stage


def read_chain(envelopes: Iterable[bytes], trust: Trust, target: ChainTarget, *, now: datetime) -> Chain:
    """Check every statement and that they belong together; whether enough persons agreed is asked elsewhere.

    Args:
        envelopes: one of ``data``, ``train`` and ``evaluate`` each, any number of ``approve``, in any order.
        trust: a trust file that :func:`guardrail.evidence.trust.trust_file.load_trust` accepted.
        target: what the statements must be about.
        now: the checker's clock, aware.

    Raises:
        InvalidInput: the target is no guarded model and protected alias.
        EvidenceInvalid: wrongly signed, about something else, out of order or expired.
        EvidenceMissing: a stage has not spoken.
        PolicyDenied: a person of the role ``approve`` said no.
    """
    protected = _protected(trust, target)
    signed = [_signed(data, trust) for data in envelopes]
    made = [_only(signed, stage) for stage in MADE]
    votes = [entry for entry in signed if entry.stage == "approve"]
    _same_target(made[-1].statement.bound, trust, target, protected)
    for entry in signed:
        _agrees(entry.statement, made[-1].statement.bound)
        _valid(entry.statement, now)
    _in_order(made, votes)
    if not trust.one_person_may_train_evaluate_and_approve:
        _apart(made, votes)
    return Chain(
        data=made[0].statement,
        train=made[1].statement,
        evaluate=made[2].statement,
        approved_by=_approved(votes),
        expires=min(entry.statement.predicate.expires for entry in signed),
        one_person_may_train_evaluate_and_approve=trust.one_person_may_train_evaluate_and_approve,
    )


def _protected(trust: Trust, target: ChainTarget) -> ProtectedAlias:
    guarded = trust.guarded(target.model)
    protected = guarded.protected(target.alias) if guarded else None
    if guarded is None or protected is None or (guarded.name, protected.alias) != (target.model, target.alias):
        raise InvalidInput(
            f"{target.model!a}@{target.alias!a} is not guarded by the trust file",
            expected="a guarded model and a protected alias, spelled as there",
        )
    return protected


def _signed(data: bytes, trust: Trust) -> _SignedStage:
    """Verify by the keys of the role that the statement itself claims: claiming another one does not help."""
    stage = parse(unverified_payload(data)).stage
    allowed = trust.keys_of(stage)
    for key_id in sorted(set(signers(data)) - {key.keyid for key in allowed}):
        who = trust.person_of(key_id)
        raise EvidenceInvalid(
            f"the {stage} statement is signed by "
            + (f"{who!a}, who may not {stage}" if who else f"a stranger, {key_id}"),
            expected=f"the signature of a key with the role {stage!r}",
            next_step="guardrail trust show prints who may do what",
        )
    statement = parse(verify(data, allowed))
    return _SignedStage(statement, sha256(data), trust.persons_of(signers(data)))


def _only(signed: Sequence[_SignedStage], stage: Stage) -> _SignedStage:
    found = [entry for entry in signed if entry.stage == stage]
    if not found:
        raise EvidenceMissing(f"there is no {stage} statement", expected="one each of " + ", ".join(MADE))
    if len(found) > 1:
        raise EvidenceInvalid(f"there are {len(found)} {stage} statements", expected="one")
    return found[0]


def _same_target(bound: Binding, trust: Trust, target: ChainTarget, protected: ProtectedAlias) -> None:
    wanted = {"model": target.model, "alias": target.alias, "nonce": target.nonce, "policy": protected.policy}
    for name, value in wanted.items():
        if getattr(bound, name) != value:
            raise EvidenceInvalid(
                f"the evaluation was made for another {name}: {getattr(bound, name)!a}",
                expected=f"{value!a}" + (f", pinned by version {trust.version}" if name == "policy" else ""),
                next_step="evidence cannot be carried over; measure for this target",
            )


def _agrees(statement: StageStatement, bound: Binding) -> None:
    """What a stage states it states as the evaluation does; a stage before it may not know all of it yet."""
    for name in Binding.model_fields:
        mine, theirs = getattr(statement.bound, name), getattr(bound, name)
        unknown = statement.stage in ("data", "train") and name in LATER[statement.stage] and not mine
        if mine != theirs and not unknown:
            raise EvidenceInvalid(
                f"the {statement.stage} statement binds another {name} than the evaluation",
                expected="statements about one and the same candidate",
            )


LATER: dict[str, frozenset[str]] = {
    "data": frozenset({"manifest", "suites", "judges", "waivers"}),
    "train": frozenset({"suites", "judges", "waivers"}),
}
"""What a stage cannot know, and may leave out."""


def _valid(statement: StageStatement, now: datetime) -> None:
    predicate = statement.predicate
    if not predicate.not_before <= now + CLOCKS_DIFFER:
        raise EvidenceInvalid(
            f"the {statement.stage} statement holds only from {predicate.not_before}", expected=f"{now}"
        )
    if expired(predicate.expires, now):
        raise EvidenceInvalid(
            f"the {statement.stage} statement expired at {predicate.expires}",
            expected=f"one that is valid at {now}",
            next_step="run the stage again",
        )


def _in_order(made: Sequence[_SignedStage], votes: Sequence[_SignedStage]) -> None:
    pairs = [*pairwise(made), *((made[-1], vote) for vote in votes)]
    for before, entry in pairs:
        if entry.statement.predicate.after != before.digest:
            raise EvidenceInvalid(
                f"the {entry.stage} statement follows another {before.stage} statement",
                expected=f"the digest of the envelope that is here, {before.digest}",
            )
    for vote in votes:
        if vote.statement.predicate.record != made[-1].statement.predicate.record:
            raise EvidenceInvalid(
                "an approval names another evaluation report than the evaluation does", expected="the same record"
            )


def _apart(made: Sequence[_SignedStage], votes: Sequence[_SignedStage]) -> None:
    trainers = made[1].persons
    for entry in (made[2], *votes):
        for person in entry.persons:
            if any(same(person, trainer) for trainer in trainers):
                raise EvidenceInvalid(f"{person!a} signed both train and {entry.stage}", expected="two persons")


def require_approved(chain: Chain, protected: ProtectedAlias) -> None:
    """As many different persons agreed as the alias asks for.

    Raises:
        AwaitingApproval: more must.
    """
    agreed = len(chain.approved_by)
    if not agreed >= protected.approvals:
        raise AwaitingApproval(
            f"{agreed} of {protected.approvals} approvals are there",
            expected=f"{protected.approvals - agreed} more, by different persons",
            next_step=f"guardrail approve {chain.bound.model}@{chain.bound.alias}",
        )


def _approved(votes: Sequence[_SignedStage]) -> tuple[str, ...]:
    """Who agreed; one no outweighs every yes."""
    agreed: set[str] = set()
    for vote in votes:
        approval = vote.statement.predicate.approval
        if approval is None or not approval.approved:
            reason = approval.reason if approval else ""
            raise PolicyDenied(
                f"{', '.join(vote.persons)} rejected it: {reason!a}", next_step="train another one: a no is final"
            )
        agreed |= set(vote.persons)
    return tuple(sorted(agreed))
