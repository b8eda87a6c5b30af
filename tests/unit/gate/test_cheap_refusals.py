"""What is refused costs no reading of an adapter, and whoever reads one keeps nobody else from deciding."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_chains import drawn, proven, vote
from gate_parts import Parts, copied, prepare

from guardrail.errors import GuardrailError
from guardrail.evidence import digest
from guardrail.evidence.bundle import EVIDENCE, Bundle
from guardrail.evidence.envelope import LARGEST, sign
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation, Rollback
from guardrail.gate import proposed_files, registrar
from guardrail.gate.sealed.turnstile import Turnstile

pytestmark = pytest.mark.slow

MODEL, OTHER, WAITING, ALIAS = "guarded", "second", "waiting", "production"
WEIGHTS = "adapter_model.safetensors"
HUGE = b" " * (LARGEST + 1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions promoted, and evidence that waits for a second person; to be copied, never used."""
    return prepare(tmp_path_factory.mktemp("cheap"), MODEL, OTHER, WAITING)


@pytest.fixture
def gate(prepared: Path, tmp_path: Path) -> Iterator[Parts]:
    """One to ask."""
    with copied(prepared, tmp_path / "gate") as made:
        yield made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file of an adapter that was hashed or fetched since."""
    found: list[str] = []
    hashed, copied = digest.file_sha256, proposed_files._copy

    def hashing(path: Path) -> str:
        if EVIDENCE not in path.parts:
            found.append(f"hashed {path.name}")
        return hashed(path)

    def copying(source: Path, target: Path, limit: int, name: str) -> int:
        if not name.startswith(f"{EVIDENCE}/"):
            found.append(f"fetched {name}")
        return copied(source, target, limit, name)

    monkeypatch.setattr(digest, "file_sha256", hashing)
    monkeypatch.setattr(proposed_files, "_copy", copying)
    return found


def bundle(gate: Parts, seed: int, model: str = MODEL, **given: Any) -> Bundle:
    return proven(gate.folder / "bundles" / f"new-{seed}", gate, gate.who.signers, model=model, seed=seed, **given)


def proposed(gate: Parts, made: Bundle, change: Callable[[Path], object] = lambda _: None) -> Callable[[], object]:
    """To propose a logged model of this bundle, changed beforehand."""
    model_id = f"m-{made.adapter_dir.name}"
    gate.logged[model_id] = made
    gate.reader(model_id)
    change(gate.folder / "logged" / model_id)
    guarded = gate.registrar.guarded_model(made.decision.model)
    return lambda: gate.registrar.propose(guarded, f"models:/{model_id}", {})


def moved(gate: Parts, version: str, model: str = MODEL) -> Callable[[], object]:
    return lambda: gate.registrar.move_alias(gate.registrar.guarded_model(model), ALIAS, version)


def planted(gate: Parts) -> Callable[[], object]:
    """A version that only a hand in the database can have made: of sealed files under a later number."""
    source = str(gate.registrar.beneath.version(MODEL, "1").source)
    shutil.copytree(gate.folder / "sealed" / source[-64:], gate.folder / "copy")
    (gate.folder / "copy").chmod(0o755)
    (gate.folder / "copy" / "more.json").write_text("{}")
    place = digest.manifest_digest(digest.manifest(gate.folder / "copy"))
    (gate.folder / "copy").rename(gate.folder / "sealed" / place)
    made = gate.registrar.beneath.make_version(MODEL, f"mlflow-artifacts:/sealed/{place}", None, {})
    return moved(gate, str(made.version))


def waits(gate: Parts) -> Bundle:
    made = bundle(gate, 30, WAITING)
    with suppress(GuardrailError):
        proposed(gate, made)()
    gate.submit(vote(made, gate.who.approvers[0].private))
    return made


def revoked(gate: Parts) -> Callable[[], object]:
    made, now = bundle(gate, 40), datetime.now(UTC)
    order = Revocation(manifest=made.decision.manifest, reason="x", not_before=now, expires=now + timedelta(days=1))
    gate.submit(sign(orders.build(order), gate.who.approvers[0].private))
    return proposed(gate, made)


def order(gate: Parts, **changes: str) -> Callable[[], object]:
    """To hand in a rollback that does not fit."""
    now, head = datetime.now(UTC), gate.registrar.journal.end()
    manifest = next(one.manifest for one in gate.registrar.journal.state().admitted.values())
    given = {"from_version": "2", "to_version": "1", "manifest": manifest, "ledger": head.digest} | changes
    made = Rollback(model=MODEL, alias=ALIAS, reason="x", not_before=now, expires=now + timedelta(days=1), **given)
    envelope = sign(orders.build(made), gate.who.approvers[0].private)
    return lambda: gate.submit(envelope)


def rejected(gate: Parts) -> Callable[[], object]:
    made = waits(gate)
    gate.submit(vote(made, gate.who.approvers[1].private, yes=False))
    return proposed(gate, made)


def changed(gate: Parts, name: str, content: bytes | None) -> Callable[[], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return proposed(gate, bundle(gate, 50), change)


def by_a_stranger(gate: Parts) -> Callable[[], object]:
    signers = gate.who.signers | {"decide": gate.who.stranger.private}
    return proposed(gate, proven(gate.folder / "bundles" / "new-51", gate, signers, model=MODEL, seed=51))


REFUSED: dict[str, Callable[[Parts], Callable[[], object]]] = {
    "an alias to an old version": lambda g: moved(g, "1"),
    "the same, spelt otherwise": lambda g: moved(g, "01"),
    "an alias to a version that is not there": lambda g: moved(g, "99"),
    "an alias to a version that the ledger never admitted": planted,
    "a proposal without evidence": lambda g: changed(g, f"{EVIDENCE}/decision.dsse.json", None),
    "a proposal with junk in the place of evidence": lambda g: changed(g, f"{EVIDENCE}/decision.dsse.json", b"{}" * 99),
    "a proposal with evidence beyond its bound": lambda g: changed(g, f"{EVIDENCE}/decision.dsse.json", HUGE),
    "a proposal that a stranger signed": by_a_stranger,
    "a proposal with a file more": lambda g: changed(g, "more.safetensors", b"x" * 9999),
    "a proposal with a file less": lambda g: changed(g, WEIGHTS, None),
    "a proposal with a file of another size": lambda g: changed(g, WEIGHTS, b"x"),
    "a proposal with another policy": lambda g: changed(g, f"{EVIDENCE}/policy.yaml", b"x"),
    "a proposal for another model": lambda g: proposed(g, replace_model(g)),
    "a proposal of a denial": lambda g: proposed(g, bundle(g, 52, safe=False)),
    "a proposal of an adapter that was revoked": revoked,
    "a proposal that waits for a second person": lambda g: proposed(g, waits(g)),
    "a proposal that somebody rejected": rejected,
    "a proposal whose ticket was spent": lambda g: proposed(g, spent(g)),
    "a rollback from where the alias is not": lambda g: order(g, from_version="7"),
    "a rollback to another adapter than it names": lambda g: order(g, manifest="0" * 64),
    "a rollback to a version that is not there": lambda g: order(g, to_version="9"),
    "a vote of nobody": lambda g: voting(g, "stranger"),
    "a vote that does not last": lambda g: voting(g, "second", expires=datetime.now(UTC) + timedelta(hours=1)),
}


def voting(gate: Parts, who: str, **changes: Any) -> Callable[[], object]:
    """To hand in a vote about what waits."""
    made = waits(gate)
    key = gate.who.stranger.private if who == "stranger" else gate.who.approvers[1].private
    envelope = vote(made, key, **changes)
    return lambda: gate.submit(envelope)


def replace_model(gate: Parts) -> Bundle:
    """Another model's evidence, in a logged model that is proposed for this one."""
    made = bundle(gate, 53, OTHER)
    return replace(made, decision=made.decision.model_copy(update={"model": MODEL}))


def spent(gate: Parts) -> Bundle:
    """A second measurement under the ticket of a denial."""
    ticket = drawn(gate, gate.who.signers, MODEL, ALIAS)
    denied = bundle(gate, 54, ticket=ticket, safe=False)
    gate.submit(denied.envelope)
    return proven(
        gate.folder / "bundles" / "again" / "new-55", gate, gate.who.signers, model=MODEL, seed=54, ticket=ticket
    )


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_refusal_reads_no_byte_of_an_adapter(gate: Parts, read: list[str], what: str) -> None:
    from mlflow.exceptions import MlflowException

    ask = REFUSED[what](gate)
    read.clear()
    with pytest.raises((GuardrailError, MlflowException)):
        ask()
    assert read == []


def test_an_honest_promotion_reads_the_adapter_once_and_what_was_sealed_once(gate: Parts, read: list[str]) -> None:
    made = bundle(gate, 60)
    ask = proposed(gate, made)
    read.clear()
    version = ask().version  # type: ignore[attr-defined]
    assert sorted(read) == sorted(f"{how} {name}" for how in ("fetched", "hashed") for name in names(made))
    read.clear()
    gate.registrar.move_alias(gate.registrar.guarded_model(MODEL), ALIAS, str(version))
    assert sorted(read) == sorted(f"hashed {name}" for name in names(made))


def test_what_was_admitted_before_is_its_version_and_is_not_read_again(gate: Parts, read: list[str]) -> None:
    made = bundle(gate, 61)
    ask = proposed(gate, made)
    first: Any = ask()
    read.clear()
    again: Any = ask()
    assert (again.version, read) == (first.version, [])


def test_other_bytes_under_evidence_that_was_admitted_are_refused_whatever_their_size(
    gate: Parts, read: list[str]
) -> None:
    made = bundle(gate, 62)
    version: Any = proposed(gate, made)()
    copy = replace(made, adapter_dir=shutil.copytree(made.adapter_dir, gate.folder / "bundles" / "copy"))
    honest: Any = proposed(gate, copy)()
    assert honest.version == version.version
    weights = copy.adapter_dir / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    evil = replace(copy, adapter_dir=copy.adapter_dir.rename(gate.folder / "bundles" / "evil"))
    with pytest.raises(GuardrailError, match="changed"):
        proposed(gate, evil)()
    assert len(gate.registrar.beneath.versions(MODEL)) == 3


def test_a_vote_that_was_handed_in_before_is_answered_from_the_ledger(gate: Parts, read: list[str]) -> None:
    made = waits(gate)
    said, before = vote(made, gate.who.approvers[0].private), gate.registrar.journal.end()
    read.clear()
    for _ in range(3):
        answer = gate.submit(said)
        assert (answer.state, answer.missing) == ("waiting", 1)
    assert (read, gate.registrar.journal.end()) == ([], before)


def names(made: Bundle) -> list[str]:
    return [path.name for path in made.adapter_dir.iterdir()]


@dataclass(frozen=True)
class Reading:
    """Somebody in the middle of reading an adapter: ``goes`` lets them go on."""

    thread: threading.Thread
    goes: threading.Event


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], Reading]]:
    """Starts something in a thread, and comes back when that is reading an adapter."""
    hashed, started = digest.manifest, list[Reading]()

    def start(ask: Callable[[], object]) -> Reading:
        there, goes = threading.Event(), threading.Event()

        def slow(place: Path) -> Any:
            if threading.current_thread() is thread:
                there.set()
                assert goes.wait(60)
            return hashed(place)

        thread = threading.Thread(target=ask)
        monkeypatch.setattr(registrar, "manifest", slow)
        started.append(Reading(thread, goes))
        thread.start()
        assert there.wait(60)
        return started[-1]

    yield start
    for one in started:
        one.goes.set()
        one.thread.join(60)
        assert not one.thread.is_alive()


SLOW: dict[str, Callable[[Parts], Callable[[], object]]] = {
    "a proposal": lambda g: proposed(g, bundle(g, 70)),
    "an alias": lambda g: moved(g, str(proposed(g, bundle(g, 71))().version)),  # type: ignore[attr-defined]
    "an alias to where it points": lambda g: moved(g, "2"),
    "a rollback": lambda g: order(g, manifest=manifest_of(g, "1")),
    "the last approval": lambda g: (lambda made: lambda: g.submit(vote(made, g.who.approvers[1].private)))(waits(g)),
}


def manifest_of(gate: Parts, version: str) -> str:
    return str(gate.registrar.beneath.version(MODEL, version).tags["guardrail.adapter_sha256"])


@pytest.mark.parametrize("what", list(SLOW))
def test_who_reads_an_adapter_keeps_nobody_from_promoting_another(
    gate: Parts, reading: Callable[[Callable[[], object]], Reading], what: str
) -> None:
    busy = reading(SLOW[what](gate))
    with Turnstile(gate.folder / "sealed" / ".queues", patience=0).turn():  # nobody decides
        pass
    assert gate.promote(bundle(gate, 72, OTHER)) == "1"
    assert busy.thread.is_alive()


def test_an_alias_that_is_looked_at_again_keeps_nobody_from_promoting_the_same_model(
    gate: Parts, reading: Callable[[Callable[[], object]], Reading]
) -> None:
    busy = reading(SLOW["an alias to where it points"](gate))
    assert gate.promote(bundle(gate, 73)) == "3"
    assert busy.thread.is_alive()


def test_what_many_propose_at_once_is_fetched_once(gate: Parts, read: list[str]) -> None:
    made = bundle(gate, 80)
    ask = proposed(gate, made)
    read.clear()
    with ThreadPoolExecutor(6) as pool:
        found: list[Any] = list(pool.map(lambda _: ask(), range(6)))
    assert {one.version for one in found} == {3}
    assert sorted(read) == sorted(f"{how} {name}" for how in ("fetched", "hashed") for name in names(made))


def test_what_is_revoked_while_an_adapter_is_read_is_not_registered(
    gate: Parts, reading: Callable[[Callable[[], object]], Reading]
) -> None:
    made, now = bundle(gate, 81), datetime.now(UTC)
    said: list[BaseException] = []

    def ask() -> None:
        try:
            proposed(gate, made)()
        except GuardrailError as error:
            said.append(error)

    busy = reading(ask)
    out = Revocation(manifest=made.decision.manifest, reason="x", not_before=now, expires=now + timedelta(days=1))
    gate.submit(sign(orders.build(out), gate.who.approvers[0].private))
    busy.goes.set()
    busy.thread.join(60)
    assert "revoked" in str(said[0])
    assert len(gate.registrar.beneath.versions(MODEL)) == 2
    assert made.evidence_sha256 not in gate.registrar.journal.state().admitted
