"""Verification by a trust file: not only that it was signed, but that each stage was, by whoever may.

Beyond ``registry/verify/verify.py``: the decision is by a key that may decide; data, training and evaluation each
signed what the records show; enough persons agreed and nobody refused; the policy is the pinned one; and the gated
server's ledger, checked by the server's key, admitted this evidence, has not revoked the adapter, and moved the alias
to this version. Not covered: models that the trust file does not guard (they are refused; ``--decider-key`` verifies
them), and a ledger whose end is missing where no exported head is given.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.chain.stage_chain import Chain, require_approved
from guardrail.evidence.ledger.entries import Entry, Head
from guardrail.evidence.statements import orders
from guardrail.evidence.trust.trust_file import ProtectedAlias, Trust
from guardrail.registry.audit.ledger_reader import History, handed_in
from guardrail.registry.audit.stage_evidence import (
    Authority,
    StageSigners,
    guarded_model,
    not_revoked,
    protected_alias,
    stage_signers,
    stages_of,
)
from guardrail.registry.gate.client import GateClient
from guardrail.registry.read.reader import parse_spec
from guardrail.registry.verify.evidence_checks import Check
from guardrail.registry.verify.verify import Verification, Verified, reader, verify_at


class TrustedVerification(Verification):
    """What verified under a trust file. ``valid_until`` is when the first of all statements expires.

    ``ledger`` is the head up to which the server's ledger was read.
    """

    trust_version: int
    stages: tuple[StageSigners, ...]
    approved_by: tuple[str, ...]
    attempt: int
    ledger: Head | None
    one_person_may_train_evaluate_and_approve: bool


def verify_trusted(
    place: Path,
    spec: str,
    *,
    tracking_uri: str,
    trust: Trust,
    now: datetime,
    base_digest: str | None = None,
    head: Head | None = None,
) -> TrustedVerification:
    """Check what the gated server holds under ``spec``, down to each stage; the files stay in the empty ``place``.

    Raises:
        EvidenceInvalid: the first check that fails.
        EvidenceMissing: a stage did not sign.
        AwaitingApproval, PolicyDenied: too few persons agreed, or one refused.
        InvalidInput: no such version, a model that the trust file does not guard, or no gated server.
    """
    wanted = parse_spec(spec)
    guarded_model(trust, wanted)  # before anything is downloaded, and whoever signed it
    authority = Authority(trust, GateClient(tracking_uri), now, head)
    with reader(tracking_uri) as source:
        found = verify_at(place, source, wanted, trust.keys_of("decide"), now, base_digest)
    return judge_trusted(found, wanted.alias, authority, authority.history())


def judge_trusted(found: Verified, alias: str | None, authority: Authority, history: History) -> TrustedVerification:
    """The same over a version that verified by its keys, and a ledger that was read and checked."""
    trust = authority.trust
    protected = protected_alias(trust, found.examined.decision)
    chain = stages_of(found.examined, authority, history)
    require_approved(chain, protected)
    checks = (
        _ok("ledger", _read(history) + ("" if authority.head else _NO_HEAD)),
        _ok("stages", "; ".join(f"{s.stage} by {', '.join(s.persons)}" for s in stage_signers(found.examined, trust))),
        _ok("attempt", f"number {found.examined.decision.attempt} since the promotion before it, as the ledger counts"),
        _ok("approvals", _approvals(chain, protected)),
        _ok("pinned", f"the policy and the base are pinned by version {trust.version} of the trust file"),
        _ok("revoked", not_revoked(history, found.examined.decision.manifest)),
        _ok("version", _version(found, history)),
        _ok("alias", _alias(found, alias, authority, history)),
    )
    return _trusted(found, chain, authority, history, checks)


_NO_HEAD = " (no exported head was given: whether its end is missing is not known)"


def _read(history: History) -> str:
    read = f"{history.length} entries, signed by the server"
    latest = history.sums.latest
    return read if history.whole or latest is None else f"{read}, read from the checkpoint in entry {latest.number}"


def _approvals(chain: Chain, protected: ProtectedAlias) -> str:
    who = ", ".join(chain.approved_by)
    return f"{len(chain.approved_by)} of {protected.approvals}" + (f": {who}" if who else "")


def _version(found: Verified, history: History) -> str:
    """The number is the server's word; where the ledger promoted this evidence or this number, it says the same."""
    evidence, number = found.examined.evidence_sha256, found.stored.version
    known = history.numbers(evidence)
    for entry in history.promotions(found.examined.decision.model):
        other, elsewhere = entry.version == number, entry.evidence == evidence and number not in known
        if elsewhere or (other and entry.evidence != evidence):
            raise EvidenceInvalid(
                f"the server gives the evidence {evidence} as version {number}",
                expected=f"{entry.evidence} as version {entry.version}, which entry {entry.number} promoted",
                next_step="guardrail registry doctor",
            )
    return f"{number}, as promoted" if known else f"{number}; no alias ever moved to it"


def _alias(found: Verified, alias: str | None, authority: Authority, history: History) -> str:
    """An alias that was moved in the database stands elsewhere than the ledger says."""
    if alias is None:
        return "not asked for"
    decision, version = found.examined.decision, found.stored.version
    entry = history.moved(decision.model, alias)
    evidence = found.examined.evidence_sha256
    same = entry is not None and entry.evidence in (None, evidence) and entry.subject in ("", decision.manifest)
    if entry is None or entry.version != version or not same:
        raise EvidenceInvalid(
            f"{alias} points at version {version}, evidence {evidence}",
            expected=f"version {entry.version}, evidence {entry.evidence or 'of ' + entry.subject}, where entry "
            f"{entry.number} of the ledger moved it"
            if entry
            else "an entry of the ledger that moved it there",
            next_step="guardrail registry doctor",
        )
    return f"version {version}, by the {entry.kind} in entry {entry.number}" + _ordered(entry, authority)


def _ordered(entry: Entry, authority: Authority) -> str:
    """Who ordered a rollback; the order must name what the entry says."""
    if entry.kind != "rollback":
        return ""
    data = handed_in(authority.gate, entry.statement or "")
    order, persons = orders.verified(data, authority.trust, persons=1, now=entry.time)
    said = (order.model, order.alias, order.to_version) if isinstance(order, orders.Rollback) else ()
    if said != (entry.model, entry.alias, entry.version):
        raise EvidenceInvalid(f"entry {entry.number} rolls back otherwise than the order says", expected="the order's")
    return f", ordered by {', '.join(persons)}: {order.reason}"


def _trusted(
    found: Verified, chain: Chain, authority: Authority, history: History, checks: tuple[Check, ...]
) -> TrustedVerification:
    record, trust = found.record, authority.trust
    fields = {name: getattr(record, name) for name in type(record).model_fields}
    fields |= {"checks": (*record.checks, *checks), "valid_until": min(record.valid_until, chain.expires)}
    fields["base_pinned"] = True  # else stages_of had refused it
    return TrustedVerification(
        **fields,
        trust_version=trust.version,
        stages=stage_signers(found.examined, trust),
        approved_by=chain.approved_by,
        attempt=found.examined.decision.attempt,
        ledger=history.head,
        one_person_may_train_evaluate_and_approve=trust.one_person_may_train_evaluate_and_approve,
    )


def _ok(name: str, why: str) -> Check:
    return Check(name=name, why=why)
