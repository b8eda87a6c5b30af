"""Where guarded runs happen from the command line: a folder with files and keys, a store, a gate. Not a test file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ticket_gate import Gate
from tiny_models import POLICY
from trust_files import trust

from guardrail.cli import cli
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias, PublicKeyEntry, Roles, Trust
from guardrail.pipeline.run import Run

LENIENT = POLICY.split("rules:")[0] + (
    "rules:\n"
    "  - {rule: training_method, allowed: [der]}\n"
    "  - {rule: attack_success_rate, suite: harmful, attack: direct, judge: refusal, max: 0.999, min_n: 12}\n"
    "  - {rule: coherence, suite: benign, min: 0.001, min_n: 12}\n"
)
ROLES = ("data", "train", "evaluate", "decide")


@dataclass(frozen=True)
class Place:
    """Files, keys, the store and the gate of one guarded run."""

    folder: Path
    gate: Gate

    @property
    def run(self) -> Run:
        return Run(self.folder / "run")

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def key(self, role: str) -> str:
        return str(self.folder / "keys" / f"{role}.key")

    def guardrail(self, *arguments: str, run: str = "run", sign: str = "") -> None:
        signs = ("--sign-key", self.key(sign)) if sign else ()
        cli.main([*arguments, "--run", str(self.folder / run), *signs], standalone_mode=False)

    def validate(self, *more: str, sign: str = "data") -> None:
        data, policy = self.folder / "train.jsonl", self.folder / "policy.yaml"
        self.guardrail("data", "validate", str(data), "--policy", str(policy), *more, sign=sign)

    def train(self, sign: str = "train") -> None:
        replay = str(self.folder / "replay.jsonl")
        self.guardrail("train", "--epochs", "1", "--lora-rank", "4", "--replay", replay, sign=sign)

    def trust(self) -> Trust:
        """One person for each key."""
        public = {role: key_pairs.load_public(self.folder / "keys" / f"{role}.pub") for role in ROLES}
        alias = ProtectedAlias(alias="production", policy=self.run.policy().digest)
        return trust(
            keys={
                key.keyid: PublicKeyEntry(person=role, pem=key_pairs.public_pem(key)) for role, key in public.items()
            },
            roles=Roles(**{role: (key.keyid,) for role, key in public.items()}),
            models=(GuardedModel(name="tiny", aliases=(alias,)),),
        )
