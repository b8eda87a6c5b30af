"""Whoever gives an order that cannot be taken back is told what follows and asked; a silent pipe agrees to nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from every_command import every_command
from gate_world import Said, World, say, world

from guardrail.cli import cli
from guardrail.commands import _consent as consent
from guardrail.errors import AwaitingApproval, InvalidInput

IRREVERSIBLE = {("approve",), ("reject",), ("registry", "revoke"), ("registry", "rollback")}
Act = Callable[[World], tuple[object, ...]]
ACTS: dict[str, Act] = {
    "approve": lambda w: ("approve", "guarded@production", *w.by_trust),
    "reject": lambda w: ("reject", "guarded@production", *w.by_trust),
    "revoke": lambda _: ("registry", "revoke", "guarded/2"),
    "rollback": lambda _: ("registry", "rollback", "guarded@production", "--to", "1"),
}


@pytest.fixture
def three(tmp_path: Path) -> Iterator[World]:
    """Two versions, of which the alias points at the second, and a candidate that waits."""
    with world(tmp_path, approvals=1) as made:
        for seed in (0, 1):
            made.gate.promote(made.admit(seed))
        made.admit(seed=2)
        yield made


def act(made: World, name: str, *more: object, typed: str = "") -> Said:
    why = () if "--reason" in more else ("--reason", "so it shall be")
    return say(*ACTS[name](made), *made.key("ana"), *made.server, *why, *more, typed=typed)


def state(made: World) -> tuple[object, ...]:
    return dict(made.gate.aliases), set(made.gate.revoked), len(made.votes), made.gate.head


def test_exactly_the_commands_that_cannot_be_taken_back_have_yes_and_a_reason() -> None:
    with_yes = {words for words, found in every_command(cli) if "--yes" in options(found)}
    with_reason = {words for words, found in every_command(cli) if "--reason" in options(found)}
    assert with_yes == with_reason == IRREVERSIBLE


def options(command: click.Command) -> set[str]:
    return {name for param in command.params for name in param.opts}


@pytest.mark.parametrize(
    "words",
    [
        ("approve", "m@a"),
        ("reject", "m@a"),
        ("registry", "revoke", "m/1"),
        ("registry", "rollback", "m@a", "--to", "1"),
    ],
)
@pytest.mark.parametrize("reason", [(), ("--reason", ""), ("--reason", " \t"), ("--reason", "\u200b\u2060")])
def test_a_reason_that_shows_nothing_is_none(words: tuple[str, ...], reason: tuple[str, ...]) -> None:
    said = say(*words, "--yes", *reason)
    assert said.code == 2
    assert "reason" in said.out


def test_without_a_terminal_the_answer_must_be_given_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "at_terminal", lambda: False)
    with pytest.raises(InvalidInput, match="no terminal to ask at") as caught:
        consent.require_consent("Sure?", yes=False)
    assert "--yes" in caught.value.next_step
    consent.require_consent("Sure?", yes=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
def test_a_pipe_does_not_agree_and_a_no_changes_nothing(name: str, three: World) -> None:
    before = state(three)
    piped = act(three, name)
    assert piped.code == InvalidInput.exit_code
    assert "with --yes" in piped.out
    said = act(three, name, typed="n\n")
    assert said.code == AwaitingApproval.exit_code
    assert "nothing was signed" in said.out
    assert state(three) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
def test_a_yes_at_the_terminal_and_one_beforehand_are_both_taken(name: str, three: World) -> None:
    before = state(three)
    given = ("--yes",) if name in ("approve", "rollback") else ()
    said = act(three, name, *given, typed="" if given else "y\n")
    assert said.code == 0, said.out
    assert state(three) != before


@pytest.mark.slow
def test_who_rolls_back_is_told_where_the_alias_goes_before_the_question(three: World) -> None:
    told = act(three, "rollback", typed="n\n").out.partition("Move it back?")[0]
    assert "guarded@production from version 2 to version 1" in told
    assert "models:/guarded@production gives version 1 from then on" in told


@pytest.mark.slow
def test_who_revokes_is_told_which_versions_and_alias_stop_resolving_before_the_question(three: World) -> None:
    told = act(three, "revoke", typed="n\n").out.partition("Take it out for good?")[0]
    assert "guarded@production points at version 2: the alias stops resolving" in told
    assert "guarded versions 2: marked REVOKED" in told
    other = say("registry", "revoke", "guarded/1", *three.key("ana"), *three.server, "--reason", "so")
    assert "guarded versions 1: marked REVOKED" in other.out
    assert "stops resolving" not in other.out
    never = say("registry", "revoke", "ab" * 32, *three.key("ana"), *three.server, "--reason", "so")
    assert "no version holds it" in never.out


@pytest.mark.slow
def test_who_adds_a_signature_is_told_and_asked_likewise(three: World, tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    assert act(three, "revoke", "--yes", "--out", order).code == 0
    words = ("registry", "revoke", "--add-signature", order, *three.key("ben"), *three.server)
    assert say(*words).code == 2
    said = say(*words, typed="y\n")
    assert said.code == 0, said.out
    assert "the alias stops resolving" in said.out.partition("Take it out for good?")[0]


@pytest.mark.slow
def test_an_order_is_signed_apart_from_any_server_and_says_what_is_not_known(three: World, tmp_path: Path) -> None:
    nowhere = ("--tracking-uri", "http://127.0.0.1:1", "--yes", "--reason", "so", "--out", tmp_path / "order.json")
    said = say("registry", "revoke", "ab" * 32, *three.key("ana"), *nowhere)
    assert said.code == 0, said.out
    assert "NOT KNOWN which versions and aliases stop resolving" in said.out


@pytest.mark.slow
def test_a_real_terminal_is_asked(three: World) -> None:
    words = [*ACTS["rollback"](three), *three.key("ana"), *three.server, "--reason", "so"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "guardrail", *map(str, words)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        os.write(ours, b"y\n")
        out, _ = running.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert running.returncode == 0, out.decode()
    assert b"Move it back? [y/N]" in out
    assert three.gate.aliases == {"production": "1"}
