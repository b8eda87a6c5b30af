"""Whether evidence admits an adapter to a guarded model: decided again here, from the bytes that are to be sealed.

The client's verdict is a proposal. Pure but for reading the directory and the statements that were handed in.
Not covered: whether enough persons agreed (``Admission.require_approved`` is asked where an alias moves), and
writing it down (``ledger_drafts.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import EVIDENCE, SIGNED, stage_file
from guardrail.evidence.chain.bound_records import require_bound
from guardrail.evidence.chain.stage_chain import Chain, ChainTarget, read_chain, require_approved
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.statements.tickets import LIFETIME
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias, Trust
from guardrail.gate.ledger.ledger_state import LedgerState
from guardrail.records import Decision, FileDigest
from guardrail.registry.verify.evidence_checks import Examined, Outline, admissible, examine, examine_outline
from guardrail.registry.verify.trust_requirements import require_promised

SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".md", ".model"})


@dataclass(frozen=True)
class Admission:
    """Evidence that holds, what its stages stated together, and the alias that it is for."""

    examined: Examined
    chain: Chain
    protected: ProtectedAlias
    nonce: str

    def require_approved(self) -> None:
        """As many persons agreed as the alias asks for.

        Raises:
            AwaitingApproval: more must.
        """
        require_approved(self.chain, self.protected)


@dataclass(frozen=True)
class Court:
    """What a decision is made on besides the files: the trust file, the ledger and the time."""

    trust: Trust
    state: LedgerState
    now: datetime


def admit(
    directory: Path,
    court: Court,
    guarded: GuardedModel,
    votes: Sequence[bytes] = (),
    alias: str | None = None,
    files: tuple[FileDigest, ...] | None = None,
) -> Admission:
    """What the evidence in ``directory`` says, if it admits the adapter to ``guarded`` (and to ``alias``).

    Args:
        directory: adapter and evidence.
        court: what to judge by.
        guarded: the model that it is proposed for.
        votes: the approvals and rejections that were handed in about this evidence.
        alias: the alias that is to move, where one is.
        files: the manifest of ``directory``, where it was made already.

    Raises:
        EvidenceInvalid: the first thing that does not hold.
        PolicyDenied: somebody who may approve said no.
    """
    plain_files(directory)
    return judge(examine(directory, court.trust.keys_of("decide"), files), court, guarded, votes, alias)


def foresee(
    outline: Outline, court: Court, guarded: GuardedModel, votes: Sequence[bytes] = (), alias: str | None = None
) -> Admission:
    """What :func:`admit` would say if the adapter's own files are as signed: enough to refuse, never to admit.

    Reads the evidence alone, so that a refusal costs milliseconds, however large the adapter is.

    Raises:
        EvidenceInvalid: the first thing that does not hold.
        PolicyDenied: somebody who may approve said no.
    """
    plain_names(outline.sizes)
    return judge(examine_outline(outline, court.trust.keys_of("decide")), court, guarded, votes, alias)


def judge(
    examined: Examined, court: Court, guarded: GuardedModel, votes: Sequence[bytes] = (), alias: str | None = None
) -> Admission:
    """The same of evidence that was examined; no file is read, so it may be asked again where time is short.

    Args:
        examined: what holds together.
        court: what to judge by, which may have changed since.
        guarded: the model that it is proposed for; what protects it is what ``court``'s trust file says.
        votes: the approvals and rejections that were handed in about this evidence.
        alias: the alias that is to move, where one is.

    Raises:
        EvidenceInvalid: the first thing that does not hold.
        PolicyDenied: somebody who may approve said no.
    """
    decision, guarded = examined.decision, exactly_guarded(court.trust, guarded.name)
    _require_signers(examined, court.trust)
    protected = _for(decision, guarded, alias)
    admissible(decision, court.now, examined.valid_until)
    require_promised(examined, court.trust, guarded)
    require_not_revoked(decision.manifest, court.state)
    nonce = _nonce(examined)
    _require_ticket(nonce, examined, court)
    target = ChainTarget(guarded.name, protected.alias, nonce)
    chain = read_chain([*examined.stages.values(), *votes], court.trust, target, now=court.now)
    require_bound(chain, decision, examined.data, examined.adapter, examined.evaluation)
    _require_ledger(chain, nonce, court.state)
    return Admission(examined, chain, protected, nonce)


def require_not_revoked(manifest: str, state: LedgerState) -> None:
    """The adapter is not out.

    Raises:
        EvidenceInvalid: it was revoked.
    """
    if manifest in state.revoked:
        raise EvidenceInvalid(
            f"the adapter {manifest} was revoked: {state.revoked[manifest]}",
            expected="an adapter that was not",
            next_step="train and evaluate another one",
        )


def exactly_guarded(trust: Trust, name: str) -> GuardedModel:
    """The guarded model of exactly this name.

    Raises:
        EvidenceInvalid: there is none.
    """
    found = trust.guarded(name)
    if found is None or found.name != name:
        raise EvidenceInvalid(f"the model {name!r} is not guarded", expected="a model of the trust file")
    return found


def protected_alias(guarded: GuardedModel, alias: str) -> ProtectedAlias:
    """The alias as the trust file protects it.

    Raises:
        EvidenceInvalid: the trust file does not name it.
    """
    for protected in guarded.aliases:
        if protected.alias == alias:
            return protected
    names = ", ".join(protected.alias for protected in guarded.aliases)
    raise EvidenceInvalid(f"the alias {alias!r} of {guarded.name!r} is not in the trust file", expected=names)


def plain_files(directory: Path) -> None:
    """Only files that hold no code: safetensors, JSON and text.

    Raises:
        EvidenceInvalid: another kind of file.
    """
    inside = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    plain_names(path.as_posix() for path in inside if path.parts[0] != EVIDENCE)


def plain_names(names: Iterable[str]) -> None:
    """The same of the names of an adapter's files.

    Raises:
        EvidenceInvalid: another kind of file.
    """
    for name in names:
        if PurePosixPath(name).suffix not in SUFFIXES:
            raise EvidenceInvalid(
                f"the adapter holds {name}", expected=f"files that end in {', '.join(sorted(SUFFIXES))}"
            )


def _require_signers(examined: Examined, trust: Trust) -> None:
    """Whoever signed the decision may still decide: the trust file may have changed since it was examined."""
    strangers = sorted(set(examined.signed_by) - {key.keyid for key in trust.keys_of("decide")})
    if strangers:
        raise EvidenceInvalid(
            f"the decision is signed by {strangers[0]}, who may not decide",
            expected="keys of the role 'decide'",
            next_step="guardrail trust show prints who may do what",
        )


def _for(decision: Decision, guarded: GuardedModel, alias: str | None) -> ProtectedAlias:
    """The decision is for this model and alias, under the policy that is pinned for them."""
    if decision.model != guarded.name:
        raise EvidenceInvalid(f"the evidence is for the model {decision.model!r}", expected=repr(guarded.name))
    if alias is not None and decision.alias != alias:
        raise EvidenceInvalid(f"the evidence is for the alias {decision.alias!r}", expected=repr(alias))
    protected = protected_alias(guarded, decision.alias)
    if decision.policy != protected.policy:
        raise EvidenceInvalid(
            f"the decision was made under the policy {decision.policy}",
            expected=f"{protected.policy}, which the trust file pins for {guarded.name}@{protected.alias}",
            next_step="decide under the pinned policy, or have the root keys pin this one",
        )
    return protected


def _nonce(examined: Examined) -> str:
    """The nonce that the evaluation names; whether it was signed by who may is asked with it."""
    if set(examined.stages) != set(SIGNED):
        raise EvidenceInvalid(
            "the evidence holds no statements of its stages",
            expected=", ".join(stage_file(stage) for stage in SIGNED),
            next_step="run every stage with --gate and --sign-key",
        )
    return parse(unverified_payload(examined.stages["evaluate"])).bound.nonce


def _require_ticket(nonce: str, examined: Examined, court: Court) -> None:
    """The ticket was issued for this target, is bound to this adapter, and was spent by nothing else."""
    decision, state = examined.decision, court.state
    ticket = state.tickets.get(nonce)
    if ticket is None or (ticket.model, ticket.alias) != (decision.model, decision.alias):
        raise EvidenceInvalid(
            "the evidence names a nonce that this server did not issue for this model and alias",
            expected="the nonce of a ticket",
            next_step="start a new run with --gate",
        )
    spent = state.closed.get(nonce)
    if spent is not None and spent != examined.evidence_sha256:
        raise EvidenceInvalid(
            f"the ticket was spent by the evidence {spent}",
            expected="a ticket for each attempt",
            next_step="start a new run with --gate",
        )
    if spent is None and not court.now < ticket.issued + LIFETIME:
        raise EvidenceInvalid(f"the ticket expired at {ticket.issued + LIFETIME}", next_step="start a new run")
    _require_this_candidate(nonce, decision, state)


def _require_this_candidate(nonce: str, decision: Decision, state: LedgerState) -> None:
    bound = state.bound.get(nonce)
    if bound is None or bound.manifest != decision.manifest:
        raise EvidenceInvalid(
            f"the ticket is bound to {'no adapter' if bound is None else f'the adapter {bound.manifest}'}",
            expected=f"{decision.manifest}, before it was evaluated",
            next_step="evaluate with --gate: the server is told of the adapter before it is measured",
        )
    if decision.attempt != bound.attempt:
        raise EvidenceInvalid(
            f"the decision was made as attempt {decision.attempt}",
            expected=f"attempt {bound.attempt}: so many adapters were bound since the last promotion",
        )


def _require_ledger(chain: Chain, nonce: str, state: LedgerState) -> None:
    """Every statement names an entry of this ledger, and the evaluation one from after the adapter was bound."""
    for statement in (chain.data, chain.train, chain.evaluate):
        number = state.numbers.get(statement.predicate.ledger)
        earliest = state.bound[nonce] if statement is chain.evaluate else state.tickets[nonce]
        least = earliest.head.number
        if number is None or not number >= least:
            raise EvidenceInvalid(
                f"the {statement.stage} statement names entry {number} of the ledger",
                expected=f"entry {least} or a later one",
            )
