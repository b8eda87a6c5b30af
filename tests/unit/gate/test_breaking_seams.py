"""What changes while an adapter is read, and who may keep others from reading one: the seams between two changes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_chains import proven
from gate_parts import Parts, copied, parts, prepare
from gate_trust import guarded_model, policy_digest, signed
from registry_tables import only_these_tables, sqlite
from sqlalchemy import text

from guardrail.errors import GuardrailError
from guardrail.evidence import digest
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.envelope import sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation, Rollback
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias
from guardrail.gate import registrar

pytestmark = pytest.mark.slow

MODEL, ALIAS = "guarded", "production"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions promoted; to be copied, never used."""
    return prepare(tmp_path_factory.mktemp("seams"), MODEL)


@pytest.fixture
def gate(prepared: Path, tmp_path: Path) -> Iterator[Parts]:
    """One to ask."""
    with copied(prepared, tmp_path / "gate") as made:
        yield made


@dataclass
class Meanwhile:
    """Does something the next time that an adapter is hashed."""

    what: Callable[[], object] | None = None


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    found, hashed = Meanwhile(), digest.manifest

    def hashing(place: Path) -> Any:
        what, found.what = found.what, None
        if what is not None:
            what()
        return hashed(place)

    monkeypatch.setattr(registrar, "manifest", hashing)
    return found


def current(gate: Parts) -> Any:
    return gate.registrar.watch.current()


def trusted(gate: Parts, model: GuardedModel, **changes: Any) -> Callable[[], object]:
    """To put a newer trust file in place in which the model is this one."""

    def write() -> None:
        before = current(gate)
        models = tuple(model if one.name == model.name else one for one in before.models)
        value = before.model_copy(update={"version": before.version + 1, "models": models, **changes})
        gate.who.write(signed(value, gate.who.root))

    return write


def bundle(gate: Parts, seed: int) -> Bundle:
    return proven(gate.folder / "bundles" / f"new-{seed}", gate, gate.who.signers, model=MODEL, seed=seed)


def changed(gate: Parts, **update: Any) -> GuardedModel:
    return gate.registrar.guarded_model(MODEL).model_copy(update=update)


def asks_for_two(gate: Parts) -> GuardedModel:
    return guarded_model(MODEL, approvals=2)


def other_base(gate: Parts) -> GuardedModel:
    return changed(gate, bases=("a" * 64,))


STRICTER = {"more approvals": asks_for_two, "another base": other_base}


@pytest.mark.parametrize("how", list(STRICTER))
def test_a_stricter_trust_file_that_came_while_an_adapter_was_read_holds(
    gate: Parts, meanwhile: Meanwhile, how: str
) -> None:
    version = gate.propose(bundle(gate, 20))
    assert version == "3"
    meanwhile.what = trusted(gate, STRICTER[how](gate))
    with pytest.raises(GuardrailError):
        gate.registrar.move_alias(gate.registrar.guarded_model(MODEL), ALIAS, version)
    assert gate.registrar.beneath.aliases(MODEL) == {ALIAS: "2"}


@pytest.mark.parametrize("how", list(STRICTER))
def test_the_same_of_what_is_proposed(gate: Parts, meanwhile: Meanwhile, how: str) -> None:
    made = bundle(gate, 21)
    meanwhile.what = trusted(gate, STRICTER[how](gate))
    with suppress(GuardrailError):
        gate.propose(made)
    assert len(gate.registrar.beneath.versions(MODEL)) == 2


def rollback(gate: Parts) -> bytes:
    now, state = datetime.now(UTC), gate.registrar.journal.state()
    order = Rollback(
        model=MODEL,
        alias=ALIAS,
        from_version="2",
        to_version="1",
        reason="x",
        not_before=now,
        manifest=next(iter(state.admitted.values())).manifest,
        expires=now + timedelta(days=1),
        ledger=gate.registrar.journal.end().digest,
    )
    return sign(orders.build(order), gate.who.approvers[0].private)


def test_a_rollback_by_who_may_not_approve_any_more_when_its_target_was_read_is_refused(
    gate: Parts, meanwhile: Meanwhile
) -> None:
    now_trust = current(gate)
    able, stranger = (gate.who.approvers[1].public.keyid, gate.who.stranger.public.keyid), gate.who.stranger
    roles = now_trust.roles.model_copy(update={"approve": (able[0], stranger.public.keyid)})
    order = rollback(gate)
    meanwhile.what = trusted(
        gate,
        gate.registrar.guarded_model(MODEL),
        roles=roles,
        keys=now_trust.keys | {stranger.public.keyid: stranger.entry},
    )
    with pytest.raises(GuardrailError, match="sign"):
        gate.submit(order)
    assert gate.registrar.beneath.aliases(MODEL) == {ALIAS: "2"}


def test_a_rollback_by_too_few_when_its_target_was_read_is_refused(gate: Parts, meanwhile: Meanwhile) -> None:
    order = rollback(gate)
    meanwhile.what = trusted(gate, asks_for_two(gate))
    with pytest.raises(GuardrailError):
        gate.submit(order)
    assert gate.registrar.beneath.aliases(MODEL) == {ALIAS: "2"}


def fakes(gate: Parts, made: Bundle, count: int) -> list[Callable[[], object]]:
    """To propose the same logged model so often: this evidence, and zeros instead of the weights."""
    model_id = "m-zeros"
    folder = shutil.copytree(made.adapter_dir, gate.folder / "bundles" / "zeros")
    weights = folder / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    gate.logged[model_id] = replace(made, adapter_dir=folder)
    gate.reader(model_id)
    guarded = gate.registrar.guarded_model(MODEL)
    return [lambda: gate.registrar.propose(guarded, f"models:/{model_id}", {})] * count


def test_one_fake_that_is_proposed_again_and_again_keeps_nobody_out(
    gate: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail.gate.sealed import queues

    made, honest = bundle(gate, 30), bundle(gate, 31)
    asks = fakes(gate, made, queues.WORKERS)
    with pytest.raises(GuardrailError, match="changed"):
        asks[0]()
    goes, there, hashed = threading.Event(), threading.Barrier(2), digest.manifest

    def slow(place: Path) -> Any:
        if threading.current_thread() in threads:
            with suppress(threading.BrokenBarrierError):
                there.wait(30)
            assert goes.wait(60)
        return hashed(place)

    def asking(ask: Callable[[], object]) -> None:
        with suppress(GuardrailError):
            ask()

    monkeypatch.setattr(registrar, "manifest", slow)
    threads = [threading.Thread(target=asking, args=(ask,)) for ask in asks]
    try:
        for thread in threads:
            thread.start()
        there.wait(30)
        time.sleep(1)
        assert gate.propose(honest) == "3"
    finally:
        goes.set()
        for thread in threads:
            thread.join(60)


TABLES = ("registered_models", "model_versions", "registered_model_aliases", "model_version_tags")


def test_a_model_that_a_hand_spelt_otherwise_is_not_handed_out_where_what_is_invalid_only_warns(tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    warns = ProtectedAlias(alias=ALIAS, policy=policy_digest(MODEL), when_invalid="warn")
    with only_these_tables(), parts(tmp_path / "gate", sqlite(tmp_path, "VARCHAR(256) COLLATE NOCASE")) as gate:
        gate.store.create_registered_model(MODEL)
        trusted(gate, GuardedModel(name=MODEL, aliases=(warns,)))()
        assert gate.promote(gate.bundle(MODEL, 0)) == "1"
        with gate.store.engine.begin() as connection:
            for table in TABLES:
                connection.execute(text(f"UPDATE {table} SET name = 'GUARDED'"))  # noqa: S608
            connection.execute(text("UPDATE model_versions SET source = 's3://evil'"))
        with pytest.raises(MlflowException, match="never admitted"):
            gate.store.get_model_version_by_alias(MODEL, ALIAS)


def test_a_revocation_that_anybody_hands_in_again_looks_at_no_other_version(
    gate: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, manifest = datetime.now(UTC), gate.registrar.beneath.version(MODEL, "1").tags["guardrail.adapter_sha256"]
    out = Revocation(manifest=manifest, reason="x", not_before=now, expires=now + timedelta(days=1))
    order = sign(orders.build(out), gate.who.approvers[0].private)
    gate.submit(order)
    assert gate.registrar.beneath.version(MODEL, "1").tags["guardrail.verdict"] == "REVOKED"
    looked = list[str]()
    monkeypatch.setattr(gate.registrar.beneath, "versions", looked.append)
    gate.submit(order)
    assert looked == []


def test_files_are_fetched_from_where_a_version_was_sealed_whatever_else_its_row_says(gate: Parts) -> None:
    with gate.store.engine.begin() as connection:
        connection.execute(text("UPDATE model_versions SET storage_location = 's3://evil'"))
    resolved = gate.store.get_model_version_by_alias(MODEL, ALIAS)
    assert gate.store.get_model_version_download_uri(MODEL, str(resolved.version)) == resolved.source
