"""Everybody who signs for a gated server, each with a key of their own, and their trust file. Not a test file.

The cast has files, because commands read files. Not covered: what they sign (``gate_chains.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from gate_trust import Person, person, policy_digest

from guardrail.evidence.digest import canonical
from guardrail.evidence.envelope import sign
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.trust.trust_file import TRUST_TYPE, GuardedModel, ProtectedAlias, Roles, Root, Trust

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

    def signers(self, **others: str) -> dict[str, PrivateKey]:
        """Which key signs which stage; ``others`` are other persons for some stages."""
        usual = {"data": "trainer", "train": "trainer", "evaluate": "evaluator", "decide": "decider"}
        return {stage: self[name].private for stage, name in (usual | others).items()}

    def trust(self, now: datetime, *, approvals: int = 0, alone: bool = False) -> Trust:
        """What the trust file says; ``alone``: one person may do everything."""
        issued = now - timedelta(days=60)
        guarded = ProtectedAlias(alias=ALIAS, policy=policy_digest(MODEL), approvals=approvals)
        return Trust(
            version=1,
            issued=issued,
            expires=now + timedelta(days=60),
            root=Root(threshold=1, keys=self.ids("root")),
            keys={self[name].public.keyid: self[name].entry for name in NAMES if name != "stranger"},
            roles=Roles(
                data=self.ids("trainer"),
                train=self.ids("trainer"),
                evaluate=self.ids("evaluator"),
                decide=self.ids("decider"),
                approve=self.ids("ana", "ben"),
                server=self.ids("server"),
            ),
            models=(GuardedModel(name=MODEL, aliases=(guarded,)),),
            one_person_may_train_evaluate_and_approve=alone,
        )


def cast(directory: Path) -> Cast:
    """New persons with new keys."""
    return Cast({name: person(directory, name) for name in NAMES})


def trust_file(directory: Path, who: Cast, trust: Trust) -> Path:
    """The signed trust file."""
    path = directory / "trust.json"
    path.write_bytes(sign(canonical(trust), who["root"].private, payload_type=TRUST_TYPE))
    return path
