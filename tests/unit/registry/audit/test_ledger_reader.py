"""``guardrail verify --trust`` and its like from a checkpoint: the same answers, at a price that no ticket raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gate_chains import drawn
from gate_world import Said, World, say, world

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.ledger.checkpoint import Checkpoint
from guardrail.registry.audit.ledger_reader import read_history, unverified_history
from guardrail.registry.gate.client import GateClient

pytestmark = pytest.mark.slow


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    """A server with one promoted version and a checkpoint after it."""
    with world(tmp_path) as made:
        made.admit()
        made.gate.add_checkpoint()
        yield made


def verify(made: World, *more: object) -> Said:
    return say("verify", "guarded@production", *made.by_trust, *made.server, *more)


def told(made: World, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """From now on the server gives another document than the ledger names."""
    assert made.gate.kept is not None
    made.gate.kept = change(made.gate.kept)


def without_entries(kept: Checkpoint) -> Checkpoint:
    return kept.model_copy(update={"entries": ()})


def pages(made: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """After which entry the server was asked for more, from now on."""
    asked: list[int] = []
    answer = made.gate.ledger_page

    def counted(after: int) -> object:
        asked.append(after)
        return answer(after)

    monkeypatch.setattr(made.gate, "ledger_page", counted)
    return asked


def test_a_version_verifies_from_the_checkpoint_and_the_answer_says_so(one: World) -> None:
    said = verify(one)
    assert (said.code, "5 entries, signed by the server, read from the checkpoint in entry 5" in said.out) == (0, True)
    assert "ok  alias     version 1, by the promotion in entry 4" in said.out


def test_however_many_tickets_were_drawn_before_the_checkpoint_nothing_more_is_read(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        drawn(one.gate, one.who.signers())
    one.gate.add_checkpoint()
    asked = pages(one, monkeypatch)
    assert verify(one).code == 0
    assert sorted(asked)[:2] == [25, 26], "the checkpoint's entry, and that there are none after it"


def test_an_exported_head_has_the_whole_ledger_read(one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pages(one, monkeypatch)
    said = verify(one, "--head", one.gate.ledger.head_path)
    assert (said.code, min(asked), "read from the checkpoint" in said.out) == (0, 0, False)


def test_what_happens_after_the_checkpoint_counts(one: World) -> None:
    manifest = next(iter(one.gate.candidates.values())).bundle.decision.manifest
    one.gate.note("revocation", subject=manifest, note="poisoned")
    said = verify(one)
    assert (said.code, "was revoked" in said.out) == (11, True), said.out


def test_what_happened_before_the_checkpoint_counts(one: World) -> None:
    manifest = next(iter(one.gate.candidates.values())).bundle.decision.manifest
    one.gate.note("revocation", subject=manifest, note="poisoned")
    one.gate.add_checkpoint()
    assert verify(one).code == 11


def test_an_adapter_that_was_bound_before_the_checkpoint_and_admitted_after_it_verifies(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        bundle = made.made(0)
        made.gate.add_checkpoint()
        made.gate.admit(bundle)
        said = verify(made)
        assert (said.code, "read from the checkpoint" in said.out) == (0, True), said.out


def test_people_approve_and_the_list_and_the_account_are_the_same_with_a_checkpoint(tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        made.admit()
        assert (
            say(
                "approve",
                "guarded@production",
                *made.key("ana"),
                *made.by_trust,
                *made.server,
                "--reason",
                "ok",
                "--yes",
            ).code
            == 0
        )
        made.gate.add_checkpoint()
        said = say(
            "approve", "guarded@production", *made.key("ben"), *made.by_trust, *made.server, "--reason", "ok", "--yes"
        )
        assert said.code == 0, said.out
        before = [say("registry", *what, *made.by_trust, *made.server).out for what in LOOKS]
        made.gate.kept = None
        assert [say("registry", *what, *made.by_trust, *made.server).out for what in LOOKS] == before


LOOKS = (("list",), ("show", "guarded/1"), ("history", "guarded"))


def test_the_whole_history_is_shown_tickets_too(one: World) -> None:
    said = say("registry", "history", "guarded", *one.by_trust, *one.server)
    assert (said.code, said.out.count("proposal")) == (0, 2), said.out


@pytest.mark.parametrize(
    "change",
    [
        without_entries,
        lambda kept: kept.model_copy(update={"places": ()}),
        lambda kept: kept.model_copy(update={"attempts": ()}),
        lambda kept: kept.model_copy(update={"head": kept.head.model_copy(update={"number": 2})}),
        lambda kept: kept.model_copy(update={"head": kept.head.model_copy(update={"digest": "0" * 64})}),
    ],
)
def test_another_document_than_the_ledger_names_is_refused(
    one: World, change: Callable[[Checkpoint], Checkpoint]
) -> None:
    told(one, change)
    assert verify(one).code == 11
    with pytest.raises(EvidenceInvalid):
        unverified_history(GateClient(one.gate.uri))


def test_a_server_that_lies_in_a_checkpoint_is_caught_by_whoever_reads_everything(one: World, tmp_path: Path) -> None:
    """One reader is fooled, as by a ledger that was written anew; the entry that the lie stands in is the proof."""
    manifest = next(iter(one.gate.candidates.values())).bundle.decision.manifest
    one.gate.note("revocation", subject=manifest, note="poisoned")
    one.gate.false = lambda made: made.model_copy(update={"entries": made.entries[:-1]})
    one.gate.add_checkpoint()
    assert verify(one).code == 0
    ledger, key = tmp_path / "copy", ("--key", one.who["server"].public_file)
    assert say("ledger", "fetch", *one.server, "--out", ledger).code == 0
    for caught in (
        say("ledger", "verify", ledger, *key),
        say("ledger", "verify", one.gate.ledger.path, *key),
        verify(one, "--head", one.gate.ledger.head_path),
        say("registry", "history", "guarded", *one.by_trust, *one.server),
    ):
        assert (caught.code, "is a checkpoint of" in caught.out) == (11, True), caught.out


def test_a_ledger_without_checkpoints_and_a_server_that_knows_none_are_read_whole(one: World) -> None:
    one.gate.kept = None
    said = verify(one)
    assert (said.code, "read from the checkpoint" in said.out) == (0, False)
    elsewhere = GateClient(f"{one.gate.uri}/nowhere")
    assert elsewhere.checkpoint() is None


def test_ledger_verify_says_how_many_checkpoints_it_compared(one: World) -> None:
    said = say("ledger", "verify", one.gate.ledger.path, "--key", one.who["server"].public_file)
    assert (said.code, "1 checkpoint, each what the entries before it add up to" in said.out) == (0, True), said.out


def test_the_checkpoint_of_a_key_that_is_not_the_servers_is_refused(one: World) -> None:
    keys = [one.who["stranger"].public]
    with pytest.raises(EvidenceInvalid, match="which was not given"):
        read_history(GateClient(one.gate.uri), keys, now=datetime.now(UTC))
