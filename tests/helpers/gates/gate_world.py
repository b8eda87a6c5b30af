"""A whole little world for tests of a gate's clients: persons, a trust file, a server that answers, commands. Not a
test file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner
from fake_gate import FakeGate, serving
from gate_cast import Cast, cast, trust_file
from gate_chains import proven

from guardrail.cli import cli
from guardrail.errors import GuardrailError
from guardrail.evidence.bundle import Bundle

NOBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed; ``out`` ends with the error, where there is one."""

    code: int
    out: str
    stdout: str


def say(*args: object, typed: str = "") -> Said:
    """Run a command line in this process; whoever types something sits at a terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guardrail.commands._consent.at_terminal", lambda: bool(typed))
        done = CliRunner().invoke(cli, [str(arg) for arg in args], input=typed)
    if isinstance(done.exception, GuardrailError):
        return Said(done.exception.exit_code, f"{done.output}{done.exception.message()}", done.stdout)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.output, done.stdout)


@dataclass(frozen=True)
class World:
    """Everybody and everything."""

    folder: Path
    who: Cast
    gate: FakeGate

    @property
    def server(self) -> tuple[object, ...]:
        """Where the server is."""
        return ("--tracking-uri", self.gate.uri)

    @property
    def by_trust(self) -> tuple[object, ...]:
        """The trust file, as commands take it."""
        return ("--trust", self.folder / "trust.json", "--root-key", self.who["root"].public_file)

    def key(self, name: str) -> tuple[object, ...]:
        """A private key, as commands take it."""
        return ("--key", self.who[name].private_file)

    def admit(
        self,
        seed: int = 0,
        *,
        ago: timedelta = timedelta(0),
        attempt: int | None = None,
        signers: Mapping[str, str] = NOBODY,
    ) -> str:
        """Admit an adapter whose evidence was made some time ago, by other ``signers``; the evidence's digest."""
        return self.gate.admit(self.made(seed, ago=ago, attempt=attempt, signers=signers))

    def made(
        self,
        seed: int,
        *,
        ago: timedelta = timedelta(0),
        attempt: int | None = None,
        signers: Mapping[str, str] = NOBODY,
    ) -> Bundle:
        """Evidence that nobody has admitted; its adapter was bound to a ticket."""
        now = datetime.now(UTC) - ago
        return proven(
            self.folder / f"adapter-{seed}", self.gate, self.who.signers(**signers), seed=seed, now=now, attempt=attempt
        )

    @property
    def votes(self) -> list[bytes]:
        """Every approval and rejection that was handed in."""
        return [vote for candidate in self.gate.candidates.values() for vote in candidate.votes]

    def stored(self, version: str) -> Path:
        """Where the server keeps a version's files."""
        return self.gate.root / str(self.gate.versions[version]["source"]).removeprefix("mlflow-artifacts:/")


@contextmanager
def world(folder: Path, *, approvals: int = 0, alone: bool = False) -> Iterator[World]:
    """A server that answers, empty; its alias asks for so many approvals."""
    who = cast(folder)
    trust = who.trust(datetime.now(UTC), approvals=approvals, alone=alone)
    trust_file(folder, who, trust)
    with serving(FakeGate(folder / "server", who, trust)) as gate:
        yield World(folder, who, gate)
