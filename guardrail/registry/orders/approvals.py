"""A person's yes or no to a candidate that waits: found, looked at as the gate looked at it, and stated.

What is shown is decided again from the sealed files, so nobody approves what a server merely says.
Not covered: signing (the command's), and what the server does with the statement.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from guardrail.errors import EvidenceInvalid, InvalidInput, PolicyDenied
from guardrail.evidence.agreement import require_agreement
from guardrail.evidence.chain.bound_records import statement
from guardrail.evidence.chain.stage_chain import ChainTarget, read_chain
from guardrail.evidence.digest import GENESIS, manifest, manifest_digest, sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.expiry import expired
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.evidence.statements.stage_statement import Approval, parse
from guardrail.registry.audit.ledger_reader import History, last
from guardrail.registry.audit.stage_evidence import (
    Authority,
    not_revoked,
    protected_alias,
    stage_envelopes,
    stages_of,
    votes_of,
)
from guardrail.registry.gate.client import GateClient
from guardrail.registry.gate.protocol import Waiting
from guardrail.registry.read.reader import Reader, Spec, download
from guardrail.registry.verify.evidence_checks import Examined, admissible, examine


@dataclass(frozen=True)
class Vote:
    """A statement that is about to be signed, and the time at which it is."""

    approval: Approval
    now: datetime


def choose(gate: GateClient, spec: Spec, evidence: str | None) -> Waiting:
    """The one candidate for this alias that waits, or the one with this evidence.

    Raises:
        InvalidInput: no alias is named, none waits, or several do and none was chosen.
    """
    if spec.alias is None:
        raise InvalidInput(f"{spec} is no alias", expected="NAME@ALIAS")
    found = [w for w in gate.waiting(spec.name) if (w.model, w.alias) == (spec.name, spec.alias)]
    chosen = [w for w in found if evidence is None or w.evidence == evidence]
    if len(chosen) == 1:
        return chosen[0]
    listed = "".join(f"\n  {w.evidence} since {w.since}, adapter {w.manifest}" for w in found)
    if not chosen:
        raise InvalidInput(
            f"nothing of that kind waits for {spec}{listed}",
            expected="a candidate that waits",
            next_step="guardrail registry waiting shows what waits, "
            f"guardrail registry history {spec.name} what became of the rest",
        )
    raise InvalidInput(
        f"{len(chosen)} candidates wait for {spec}:{listed}", expected="one", next_step="choose with --evidence SHA256"
    )


def look(place: Path, source: Reader, waiting: Waiting, keys: tuple[PublicKey, ...], now: datetime) -> Examined:
    """Download the sealed candidate into the empty ``place`` and check that it is what waits, and could be admitted.

    Raises:
        EvidenceInvalid: its files are not those that were sealed, or their evidence does not hold.
    """
    download(source, f"sealed/{waiting.sealed}", place)
    if manifest_digest(manifest(place)) != waiting.sealed:
        raise EvidenceInvalid("the candidate's files are not those that were sealed", expected=waiting.sealed)
    examined = examine(place, keys)
    decision = examined.decision
    admissible(decision, now, examined.valid_until)
    require_agreement(
        (
            ("evidence", waiting.evidence, examined.evidence_sha256),
            ("adapter", waiting.manifest, decision.manifest),
            ("model", waiting.model, decision.model),
            ("alias", waiting.alias, decision.alias),
        ),
        whose="of what waits, as the server says, the ",
        parts="as signed",
    )
    return examined


def check_stages(examined: Examined, authority: Authority, history: History) -> str:
    """Check the stages as the gate does; returns how many persons agreed.

    Raises:
        EvidenceInvalid, EvidenceMissing, PolicyDenied: they do not hold, or somebody refused already.
        InvalidInput: the trust file does not guard this model and alias.
    """
    needed = protected_alias(authority.trust, examined.decision).approvals
    not_revoked(history, examined.decision.manifest)
    chain = stages_of(examined, authority, history)
    who = f" ({', '.join(chain.approved_by)})" if chain.approved_by else ""
    return f"{len(chain.approved_by)} of {needed} approvals are there{who}"


def state(examined: Examined, vote: Vote, ledger: str) -> bytes:
    """The statement that a person signs: about the same candidate, record and time as the evaluation's.

    Raises:
        EvidenceMissing: the stages did not sign.
        EvidenceInvalid: the evaluation's statement has expired.
    """
    evaluate = stage_envelopes(examined)[-1]
    said = parse(unverified_payload(evaluate)).predicate  # the decision's envelope names its digest
    if expired(said.expires, vote.now):
        raise EvidenceInvalid(f"the evaluation expired at {said.expires}", next_step="measure and promote again")
    return statement(
        "approve",
        said.bound,
        said.record,
        after=sha256(evaluate),
        ledger=ledger,
        not_before=vote.now,
        expires=said.expires,
        approval=vote.approval,
    )


def require_welcome(
    envelope: bytes, examined: Examined, waiting: Waiting, authority: Authority, history: History
) -> None:
    """What the gate will say of the signed statement, said before it is sent.

    Raises:
        EvidenceInvalid: the signer may not approve, or prepared the adapter.
    """
    votes = votes_of(examined.evidence_sha256, authority.gate, history)
    target = ChainTarget(waiting.model, waiting.alias, waiting.nonce)
    with suppress(PolicyDenied):  # this is the no
        read_chain((*stage_envelopes(examined), *votes, envelope), authority.trust, target, now=authority.now)


def ledger_head(gate: GateClient) -> str:
    """The digest of the ledger's last entry, as the server says."""
    head = last(gate)
    return head.digest if head else GENESIS
