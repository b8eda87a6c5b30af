"""The doctor on the gate's real parts, clean and then broken by hand: each thing that is wrong is named exactly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_chains import vote
from gate_parts import Parts, parts

from guardrail.errors import ServiceUnavailable
from guardrail.evidence.digest import manifest, manifest_digest, sha256
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation
from guardrail.gate.app.doctor import examine_all
from guardrail.gate.ledger_drafts import Kept
from guardrail.gate.registrar import Registrar
from guardrail.gate.sealed.tree import sealed_digest
from guardrail.gate.versions.mlflow_tables import Beneath
from guardrail.gate.versions.reconcile import AGAIN, MOVE_AGAIN
from guardrail.registry.gate.protocol import RegistryProblem
from guardrail.registry.mlflow.tags import EVIDENCE as TAG

pytestmark = pytest.mark.slow

MODEL, WAITING = "guarded", "waiting"
WEIGHTS = "adapter_model.safetensors"
SILENT = ServiceUnavailable("the bucket does not answer", next_step="try again")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions promoted, and evidence that waits for approvals; to be copied, never used."""
    folder = tmp_path_factory.mktemp("doctor")
    with parts(folder) as made:
        for name in (MODEL, WAITING):
            made.store.create_registered_model(name)
        assert [made.promote(made.bundle(MODEL, seed)) for seed in (1, 2)] == ["1", "2"]
        made.propose(made.bundle(WAITING, 3))
    return folder


@pytest.fixture
def gate(prepared: Path, tmp_path: Path) -> Iterator[Parts]:
    """One to break."""
    shutil.copytree(prepared, tmp_path / "gate")
    with parts(tmp_path / "gate") as made:
        yield made


def problems(gate: Parts) -> list[RegistryProblem]:
    return list(examine_all(gate.registrar).problems)


def digest_of(gate: Parts, version: str) -> str:
    """What a version's files lie under."""
    return sealed_digest(str(gate.registrar.beneath.version(MODEL, version).source))


def waits(gate: Parts) -> tuple[str, str]:
    """What waits: where the doctor finds it, and what its files lie under."""
    (found,) = gate.registrar.journal.state().waiting()
    return f"{WAITING}, evidence {found.evidence}", Kept.of(found).sealed


def spoil(gate: Parts, digest: str) -> str:
    """Change one byte of sealed weights; what is to be said of it."""
    place = gate.folder / "sealed" / digest
    content = bytearray((place / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (place / WEIGHTS).chmod(0o644)
    (place / WEIGHTS).write_bytes(content)
    return (
        f"the sealed adapter {digest} is {manifest_digest(manifest(place))}\n"
        "  expected: exactly the files that were sealed\n"
        "  next: restore it from a backup, or promote another adapter"
    )


def evidence_of(gate: Parts, version: str) -> str:
    return str(gate.registrar.beneath.version(MODEL, version).tags[TAG])


def moved(gate: Parts, points: str, stands: str) -> RegistryProblem:
    """What is said of an alias that points elsewhere than the ledger moved it to."""
    entry = gate.registrar.journal.state().stands[(MODEL, "production")].entry
    what = (
        f"it points at version {points} (evidence {evidence_of(gate, points)}); "
        f"the ledger moved it to version {stands} (evidence {evidence_of(gate, stands)}, entry {entry})"
    )
    return RegistryProblem(where=f"{MODEL}@production", what=what, finish=MOVE_AGAIN)


def test_nothing_is_wrong_where_nobody_touched_anything_and_evidence_waits(gate: Parts) -> None:
    health = examine_all(gate.registrar)
    assert health.problems == ()
    assert (health.versions, health.head) == (2, gate.registrar.journal.head())
    assert len(gate.registrar.journal.state().waiting()) == 1


def test_an_alias_that_was_moved_behind_the_gate(gate: Parts) -> None:
    gate.registrar.beneath.set_alias(MODEL, "production", "1")
    assert problems(gate) == [moved(gate, "1", "2")]


def test_an_alias_that_the_ledger_never_moved(gate: Parts) -> None:
    gate.registrar.beneath.make_version(WAITING, "mlflow-artifacts:/elsewhere", None, {})
    gate.registrar.beneath.set_alias(WAITING, "production", "1")
    what = "it points at version 1 (no evidence that was admitted); the ledger moved it to none"
    assert RegistryProblem(where=f"{WAITING}@production", what=what) in problems(gate)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_byte_of_a_version(gate: Parts, version: str) -> None:
    what = spoil(gate, digest_of(gate, version))
    assert problems(gate) == [RegistryProblem(where=f"{MODEL}/{version}", what=what)]


def test_a_byte_of_what_waits(gate: Parts) -> None:
    where, digest = waits(gate)
    what = spoil(gate, digest)
    assert problems(gate) == [RegistryProblem(where=where, what=what)]


def test_a_sealed_adapter_that_is_gone_while_it_waits(gate: Parts) -> None:
    where, digest = waits(gate)
    (gate.folder / "sealed" / digest).rename(gate.folder / "elsewhere")
    (found,) = problems(gate)
    assert (found.where, found.what.splitlines()[0]) == (where, f"the sealed adapter {digest} is not there")


def test_a_tag_that_names_other_evidence(gate: Parts) -> None:
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    tag, true = ModelVersionTag(TAG, sha256(b"other evidence")), evidence_of(gate, "2")
    SqlAlchemyStore.set_model_version_tag(gate.store, MODEL, "2", tag)
    what = f"its tag {TAG} is '{sha256(b'other evidence')}', the ledger says {true}"
    assert problems(gate) == [RegistryProblem(where=f"{MODEL}/2", what=what, finish=AGAIN)]


def test_a_version_of_files_that_the_ledger_never_admitted(gate: Parts, tmp_path: Path) -> None:
    place = tmp_path / "forged" / "evidence"
    place.mkdir(parents=True)
    (place / "decision.dsse.json").write_bytes(b"forged")
    tree = gate.registrar.sealing()
    location = f"mlflow-artifacts:/sealed/{tree.keep(place.parent)}"
    gate.registrar.beneath.make_version(MODEL, location, None, {TAG: sha256(b"forged")})
    (first, *_) = problems(gate)
    assert first == RegistryProblem(where=f"{MODEL}/3", what=f"the ledger never admitted what it holds ({location})")


def test_storage_that_does_not_answer_is_told_of_versions_and_of_what_waits(
    gate: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_digest: str) -> AbstractContextManager[Path]:
        raise SILENT

    monkeypatch.setattr(gate.registrar.sealing(), "verified", silent)
    places = (f"{MODEL}/1", f"{MODEL}/2", waits(gate)[0])
    assert problems(gate) == [RegistryProblem(where=where, what=SILENT.message()) for where in places]


@pytest.mark.parametrize(("how", "said"), [("gone", "no statement {}"), ("changed", "the statement {} was changed")])
def test_a_vote_that_was_touched(gate: Parts, how: str, said: str) -> None:
    bundle = gate.bundle(WAITING, 6)
    gate.propose(bundle)
    given = vote(bundle, gate.who.approvers[0].private)
    assert gate.submit(given).state == "waiting"
    (path,) = gate.folder.glob(f"ledger/ledger.statements/{sha256(given)}*")
    path.unlink() if how == "gone" else path.write_bytes(b"{}")
    (found,) = problems(gate)
    assert (found.where, found.finish) == (f"{WAITING}, evidence {bundle.evidence_sha256}", "")
    assert found.what.startswith(said.format(sha256(given)))


@pytest.mark.parametrize(
    ("part", "step", "where", "what", "finish"),
    [
        (Beneath, "make_version", MODEL + ", evidence {}", "admitted, but it has no version", AGAIN),
        (Registrar, "move_alias", MODEL + ", evidence {}", "admitted, but its alias did not move", AGAIN),
        (Beneath, "set_alias", MODEL + "@production", "", MOVE_AGAIN),
    ],
)
def test_what_a_crash_left_undone_is_finished_by_asking_again(
    gate: Parts, monkeypatch: pytest.MonkeyPatch, part: type, step: str, where: str, what: str, finish: str
) -> None:
    class Crash(Exception):
        """As if the server had been killed."""

    def crash(*_: object) -> None:
        raise Crash

    bundle = gate.bundle(MODEL, 4)
    with monkeypatch.context() as patch, suppress(Crash):
        patch.setattr(part, step, crash)
        gate.promote(bundle)
    said = RegistryProblem(where=where.format(bundle.evidence_sha256), what=what, finish=finish)
    assert problems(gate) == [said if what else moved(gate, "2", "3")]
    assert gate.promote(bundle) == "3"
    assert problems(gate) == []


def test_evidence_that_does_not_hold_any_more_is_nothing_to_finish(gate: Parts) -> None:
    bundle, now = gate.bundle(MODEL, 5), datetime.now(UTC)
    gate.propose(bundle)
    assert len(problems(gate)) == 1
    out = Revocation(
        manifest=bundle.decision.manifest,
        reason="it leaks",
        not_before=now - timedelta(minutes=1),
        expires=now + timedelta(days=1),
    )
    gate.submit(sign(orders.build(out), gate.who.approvers[0].private))
    assert problems(gate) == []
