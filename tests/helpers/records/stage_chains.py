"""Signed stage statements for tests: one honest chain, and how to change one thing of it. Not a test file.

Not covered: records. Their digests here are of nothing that exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from policy_evidence import BASE
from trust_files import ALIAS, MODEL, NOW, POLICY, key

from guardrail.evidence.chain.stage_chain import Chain, ChainTarget, read_chain, require_approved
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements.stage_statement import (
    STAGES,
    Approval,
    Binding,
    Stage,
    StagePredicate,
    SuiteDigest,
    build,
)
from guardrail.evidence.trust.trust_file import Trust

NONCE = "0123456789abcdef" * 4
TARGET = ChainTarget(MODEL, ALIAS, NONCE)
SIGNER: dict[Stage, tuple[str, ...]] = {
    "data": ("train",),
    "train": ("train",),
    "evaluate": ("evaluate",),
    "approve": ("ana",),
}
BOUND = Binding(
    model=MODEL,
    alias=ALIAS,
    policy=POLICY,
    nonce=NONCE,
    base=BASE,
    dataset=sha256(b"rows"),
    manifest=sha256(b"adapter"),
    suites=(
        SuiteDigest(name="benign", digest=sha256(b"benign")),
        SuiteDigest(name="harmful", digest=sha256(b"harmful")),
    ),
    judges=sha256(b"cards"),
)
KNOWN_LATER: dict[Stage, dict[str, Any]] = {
    "data": {"manifest": None, "suites": (), "judges": None},
    "train": {"suites": (), "judges": None},
}


def check_chain(envelopes: Iterable[bytes], trust: Trust, target: ChainTarget, *, now: datetime) -> Chain:
    """Everything that is asked of a chain: that it holds, and that enough persons agreed."""
    found = read_chain(envelopes, trust, target, now=now)
    (protected,) = (
        a for model in trust.models if model.name == target.model for a in model.aliases if a.alias == target.alias
    )
    require_approved(found, protected)
    return found


def statement(stage: Stage, after: str | None, signer: tuple[str, ...] = (), **changes: Any) -> bytes:
    """One stage's envelope; ``changes`` replace what it binds (names of :class:`Binding`) and what else it says."""
    told = {name: changes.pop(name) for name in Binding.model_fields if name in changes}
    predicate = StagePredicate(
        bound=BOUND.model_copy(update={**KNOWN_LATER.get(stage, {}), **told}),
        record=sha256(("evaluate" if stage == "approve" else stage).encode()),
        after=after,
        not_before=NOW - timedelta(hours=1),
        expires=NOW + timedelta(days=30),
        approval=Approval(approved=True) if stage == "approve" else None,
    ).model_copy(update=changes)
    return sign(build(stage, predicate), *(key(name) for name in signer or SIGNER[stage]))


def chain(changed: Stage | None = None, **changes: Any) -> dict[Stage, bytes]:
    """All four envelopes, linked, in order; the stage ``changed`` has other signers or says something else."""
    made: dict[Stage, bytes] = {}
    after: str | None = None
    for stage in STAGES:
        given: dict[str, Any] = {"after": after, **(changes if stage == changed else {})}
        made[stage] = statement(stage, **given)
        after = sha256(made[stage])
    return made
