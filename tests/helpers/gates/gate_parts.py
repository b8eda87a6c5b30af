"""A gate without its server: MLflow's registry store on SQLite, a sealed tree and a ledger, in this very process.

Not a test file. Not covered: routes, and MLflow's tracking store; a logged model is the bundle that was made for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gate_chains import proven
from gated_servers import People, known, people
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from guardrail.errors import AwaitingApproval
from guardrail.evidence.bundle import Bundle, write
from guardrail.evidence.statements.tickets import Ticket
from guardrail.gate import proposed_files, ticket_office
from guardrail.gate import settings as config
from guardrail.gate.registrar import Registrar
from guardrail.gate.sealed.tree import DiskTree
from guardrail.gate.statement_desk import Desk
from guardrail.registry.gate.protocol import Submitted


@dataclass(frozen=True)
class Parts:
    """The gate whose registry, ledger and files lie in ``folder``."""

    folder: Path
    who: People
    store: Any = field(repr=False)
    logged: dict[str, Bundle] = field(default_factory=dict)
    """Logged model to what it holds."""

    @property
    def registrar(self) -> Registrar:
        found: Registrar = self.store.registrar
        return found

    def ticket(self, request: bytes) -> Ticket:
        court = self.registrar.court()
        return ticket_office.issue(self.registrar.journal, court.trust, request, court.now)

    def submit(self, envelope: bytes) -> Submitted:
        return Desk(self.registrar.journal, self.registrar, self.registrar.court()).take(envelope)

    def bundle(self, model: str, seed: int, **given: Any) -> Bundle:
        return proven(self.folder / "bundles" / str(seed), self, self.who.signers, model=model, seed=seed, **given)

    def propose(self, bundle: Bundle) -> str:
        """The first half of a promotion; the version, empty where it waits for approvals."""
        guarded = self.registrar.guarded_model(bundle.decision.model)
        model_id = f"m-{bundle.adapter_dir.name}"
        self.logged[model_id] = bundle
        with suppress(AwaitingApproval):
            return str(self.registrar.propose(guarded, f"models:/{model_id}", {}).version)
        return ""

    def reader(self, location: str) -> proposed_files.RepositoryReader:
        """The files of a logged model, laid out when they are first read."""
        place = self.folder / "logged" / location
        if not place.exists():
            place.mkdir(parents=True)
            write(self.logged[location], place)
        return proposed_files.RepositoryReader(LocalArtifactRepository(str(place)), "")

    def promote(self, bundle: Bundle) -> str:
        """The version that the alias points at now."""
        version = self.propose(bundle)
        self.registrar.move_alias(self.registrar.guarded_model(bundle.decision.model), bundle.decision.alias, version)
        return version


@contextmanager
def parts(folder: Path, database: str = "") -> Iterator[Parts]:
    """A gate in ``folder``, which may hold one already; its registry is there, too, or in another ``database``."""
    who = known(folder / "people") if (folder / "people").exists() else people(folder / "people")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            config.TRUST: who.trust_file,
            config.ROOT_KEYS: who.root.public_file,
            config.SERVER_KEY: who.server.private_file,
            config.LEDGER: folder / "ledger" / "ledger",
            config.LEDGER_HEAD: folder / "ledger" / "ledger.head",
        }.items():
            patch.setenv(name, str(value))
        patch.delenv(config.ROOT_THRESHOLD, raising=False)
        patch.setattr(proposed_files, "logged_model", _logged_model)
        from guardrail.gate.store.gated_store import GatedStore

        registry = database or f"sqlite:///{folder / 'mlflow.db'}"
        store = GatedStore(f"gated+{registry}")
        tree = DiskTree(folder / "sealed")
        tree.queues.prepare()
        store.registrar.tree = tree
        made = Parts(folder, who, store)
        patch.setattr(proposed_files, "_reader", made.reader)
        yield made
        store.engine.dispose()


def prepare(folder: Path, *models: str) -> Path:
    """A gate with these models, the first of which was promoted twice; to be copied, never used."""
    with parts(folder) as made:
        for name in models:
            made.store.create_registered_model(name)
        assert [made.promote(made.bundle(models[0], seed)) for seed in (1, 2)] == ["1", "2"]
    return folder


@contextmanager
def copied(prepared: Path, folder: Path) -> Iterator[Parts]:
    """A gate in ``folder``, which is not there yet, as it was prepared."""
    shutil.copytree(prepared, folder)
    with parts(folder) as made:
        yield made


def _logged_model(source: str) -> SimpleNamespace:
    model_id = source.removeprefix("models:/")
    return SimpleNamespace(model_id=model_id, source_run_id=None, experiment_id="1", artifact_location=model_id)
