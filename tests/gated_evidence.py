"""Sealed evidence as a gated server admits it: a ticket's nonce, three signed stages, a decision. Not a test file.

The cast has files, because commands read files. Not covered: measuring (``registry_bundles.py`` says what was found).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from gate_trust import Person, person, policy_digest
from registry_bundles import unsealed

from guardrail.evidence.binding import bound_of, statement
from guardrail.evidence.bundle import Bundle, seal
from guardrail.evidence.digest import canonical, digest, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.stages import Stage
from guardrail.evidence.tickets import Ticket, seed_of
from guardrail.evidence.trust import TRUST_TYPE, GuardedModel, ProtectedAlias, Roles, Root, Trust
from guardrail.policy.decide import decide
from guardrail.policy.load import load_policy_bytes
from guardrail.policy.rules import Evidence

MODEL, ALIAS = "guarded", "production"
NAMES = ("root", "trainer", "evaluator", "decider", "ana", "ben", "server", "stranger")


@dataclass(frozen=True)
class Cast:
    """Everybody who signs, by name."""

    persons: dict[str, Person]

    def __getitem__(self, name: str) -> Person:
        return self.persons[name]

    def ids(self, *names: str) -> tuple[str, ...]:
        """Key ids."""
        return tuple(self[name].public.keyid for name in names)

    def trust(self, now: datetime, *, approvals: int = 0, alone: bool = False) -> Trust:
        """What the trust file says; ``alone``: one person may do everything."""
        issued = now - timedelta(days=60)
        guarded = ProtectedAlias(alias=ALIAS, policy=policy_digest(MODEL), approvals=approvals)
        return Trust(
            version=1, issued=issued, expires=now + timedelta(days=60), root=Root(threshold=1, keys=self.ids("root")),
            keys={self[name].public.keyid: self[name].entry for name in NAMES if name != "stranger"},
            roles=Roles(
                data=self.ids("trainer"), train=self.ids("trainer"), evaluate=self.ids("evaluator"),
                decide=self.ids("decider"), approve=self.ids("ana", "ben"), server=self.ids("server"),
            ),
            models=(GuardedModel(name=MODEL, aliases=(guarded,)),), one_person_may_train_evaluate_and_approve=alone,
        )  # fmt: skip


def cast(directory: Path) -> Cast:
    """New persons with new keys."""
    return Cast({name: person(directory, name) for name in NAMES})


def trust_file(directory: Path, who: Cast, trust: Trust) -> Path:
    """The signed trust file."""
    path = directory / "trust.json"
    path.write_bytes(sign(canonical(trust), who["root"].private, payload_type=TRUST_TYPE))
    return path


def evidence(directory: Path, who: Cast, ticket: Ticket, now: datetime, *, seed: int = 0,
             signers: dict[str, str] | None = None, decided_by: str = "decider") -> Bundle:  # fmt: skip
    """An adapter with everything signed at ``now``; ``signers`` are other persons for some stages."""
    made = unsealed(directory, model=ticket.model, alias=ticket.alias, seed=seed, now=now)
    evaluation = made.evaluation.model_copy(update={"seed": seed_of(ticket.nonce)})
    found = Evidence(data=made.data, adapter=made.adapter, evaluation=evaluation)
    policy = load_policy_bytes(made.policy, "policy.yaml")
    decision = decide(policy, found, inputs=sha256(b"in"), now=now, attempt=ticket.attempt)
    whole = replace(made, evaluation=evaluation, decision=decision)
    stages = _stages(whole, who, ticket, now, {"data": "trainer", "train": "trainer", "evaluate": "evaluator"}
                     | (signers or {}))  # fmt: skip
    return seal(replace(whole, stages=stages), who[decided_by].private)


def _stages(bundle: Bundle, who: Cast, ticket: Ticket, now: datetime, signers: dict[str, str]) -> dict[str, bytes]:
    records: Sequence[tuple[Stage, object]] = (
        ("data", (bundle.data,)), ("train", (bundle.data, bundle.adapter)),
        ("evaluate", (bundle.data, bundle.adapter, bundle.evaluation)),
    )  # fmt: skip
    made: dict[str, bytes] = {}
    after: str | None = None
    for stage, known in records:
        assert isinstance(known, tuple)
        bound = bound_of(ticket, bundle.decision.policy, bundle.evaluation.base, *known)
        payload = statement(stage, bound, digest(known[-1]), after=after, ledger=ticket.ledger, not_before=now,
                            expires=now + timedelta(days=30))  # fmt: skip
        made[stage] = sign(payload, who[signers[stage]].private)
        after = sha256(made[stage])
    return made
