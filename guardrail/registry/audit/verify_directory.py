"""Verification of a directory on this disk, with its evidence beside it, and of nothing else: no server is asked.

What a directory cannot show is named in the record (``not_checked``), because a reader must not take it for granted:
everything that only the server's ledger says. Not covered: that the files stay as they are after they were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence import bundle
from guardrail.evidence.chain.bound_records import require_bound
from guardrail.evidence.chain.stage_chain import ChainTarget, read_chain
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.keys.key_pairs import PublicKey
from guardrail.evidence.statements.stage_statement import parse
from guardrail.evidence.trust.trust_file import Trust
from guardrail.policy.bases import pins_base
from guardrail.records import Frozen, Sha256, Verdict
from guardrail.registry.audit.stage_evidence import guarded_model, stage_envelopes, stage_signers
from guardrail.registry.read.reader import Spec
from guardrail.registry.verify.evidence_checks import Check, Examined, admissible, examine
from guardrail.registry.verify.trust_requirements import require_promised
from guardrail.registry.verify.verify import require_compared

IN_LEDGER = ("admission", "attempt", "approvals", "revocation", "alias")
STAGES = "stages"


class DirectoryVerification(Frozen):
    """What a directory holds, what was checked, in order, and what nobody could check without the server."""

    directory: str
    model: str
    alias: str
    verdict: Verdict
    evidence_sha256: Sha256
    adapter_sha256: Sha256
    policy: str
    policy_sha256: Sha256
    base: str
    base_sha256: Sha256
    base_pinned: bool
    signed_by: tuple[str, ...]
    valid_until: datetime
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    trust_version: int | None
    one_person_may_train_evaluate_and_approve: bool


@dataclass(frozen=True)
class Wanted:
    """What the directory must be: ``spec`` names model and alias (None: whatever it was made for), ``base_digest`` the
    base that it will be loaded on, where that is known."""

    spec: Spec | None
    base_digest: str | None


def verify_directory(
    directory: Path, keys: Sequence[PublicKey], trust: Trust | None, wanted: Wanted, now: datetime
) -> DirectoryVerification:
    """Check the adapter in ``directory`` against the evidence beside it.

    Args:
        directory: as `guardrail pull` wrote it, or downloaded otherwise: the adapter's files and ``evidence/``.
        keys: whose signature on the decision counts.
        trust: a trust file that was checked; with it each stage's statement is checked as well.
        wanted: what it must be.
        now: the time at which the evidence must be valid.

    Raises:
        EvidenceInvalid, EvidenceMissing: the first check that fails.
        InvalidInput: no directory with evidence, a version is asked for, or the trust file does not guard the model.
    """
    _require_readable(directory, wanted.spec)
    examined = examine(directory, keys)
    checks = (*examined.checks, admissible(examined.decision, now, examined.valid_until), *_fits(examined, wanted))
    if trust is None:
        return _record(directory, examined, None, checks)
    return _record(directory, examined, trust, (*checks, *_by_trust(examined, trust, now)))


def _require_readable(directory: Path, spec: Spec | None) -> None:
    if not (directory / bundle.EVIDENCE).is_dir():
        raise InvalidInput(
            f"there is no {directory / bundle.EVIDENCE}",
            expected=f"a directory with an adapter and its {bundle.EVIDENCE}/, as guardrail pull makes it",
        )
    if spec is not None and spec.version is not None:
        raise InvalidInput(
            f"a directory does not show that it is {spec}",
            expected="NAME@ALIAS, or only the directory",
            next_step="leave the version out: its number is the server's word",
        )


def _fits(examined: Examined, wanted: Wanted) -> Iterator[Check]:
    decision, spec = examined.decision, wanted.spec
    made_for = f"{decision.model}@{decision.alias}"
    if spec is not None and (spec.name, spec.alias) != (decision.model, decision.alias):
        raise EvidenceInvalid(f"the evidence was made for {made_for!a}", expected=f"evidence for {str(spec)!a}")
    yield Check(name="target", why=f"made for {made_for}")
    yield Check(name="base", why=require_compared(examined, wanted.base_digest))


def _by_trust(examined: Examined, trust: Trust, now: datetime) -> Iterator[Check]:
    """As the gate reads the stages, but for what only its ledger knows; the nonce is the evaluation's own."""
    decision = examined.decision
    require_promised(examined, trust, guarded_model(trust, Spec(name=decision.model, alias=decision.alias)))
    envelopes = stage_envelopes(examined)
    nonce = parse(unverified_payload(envelopes[-1])).bound.nonce
    chain = read_chain(envelopes, trust, ChainTarget(decision.model, decision.alias, nonce), now=now)
    require_bound(chain, decision, examined.data, examined.adapter, examined.evaluation)
    who = "; ".join(f"{one.stage} by {', '.join(one.persons)}" for one in stage_signers(examined, trust))
    yield Check(name="stages", why=who)
    pinned = f"the policy and the base are pinned by version {trust.version} of the trust file"
    yield Check(name="pinned", why=pinned)


def _record(
    directory: Path, examined: Examined, trust: Trust | None, checks: tuple[Check, ...]
) -> DirectoryVerification:
    decision = examined.decision
    return DirectoryVerification(
        directory=str(directory),
        model=decision.model,
        alias=decision.alias,
        verdict=decision.verdict,
        evidence_sha256=examined.evidence_sha256,
        adapter_sha256=decision.manifest,
        policy=decision.policy_name,
        policy_sha256=decision.policy,
        base=decision.base.name,
        base_sha256=decision.base.digest,
        base_pinned=trust is not None or pins_base(decision),
        signed_by=examined.signed_by,
        valid_until=examined.valid_until,
        checks=checks,
        not_checked=IN_LEDGER if trust is not None else (STAGES, *IN_LEDGER),
        trust_version=trust.version if trust else None,
        one_person_may_train_evaluate_and_approve=bool(trust and trust.one_person_may_train_evaluate_and_approve),
    )
