"""What the guides claim of tasks, attempts and commands is so: each claim that a test can hold is held here."""

from __future__ import annotations

import re

import click
import pytest
from repository import ROOT

from guardrail import plugins
from guardrail.cli import cli
from guardrail.pipeline.exam.sources import TASKS
from guardrail.policy.soundness import JUDGES

DOCS = {path.name: path.read_text(encoding="utf-8") for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]}


def _command(words: str) -> tuple[str, click.Command]:
    """The command that these words begin with, and its name."""
    found: click.Command = cli
    name = ""
    for word in words.split():
        if isinstance(found, click.Group) and (inner := found.get_command(click.Context(found), word)):
            found, name = inner, f"{name} {word}".strip()
    return name, found


@pytest.mark.parametrize("task", plugins.names(TASKS))
def test_the_prompt_of_every_task_that_makes_one_is_written_down(task: str) -> None:
    prompt = getattr(plugins.load(TASKS, task), "PROMPT", "")
    assert prompt in DOCS["suites.md"]


def test_the_commands_that_ask_no_server_are_those_that_the_auditors_page_names() -> None:
    page = DOCS["auditing.md"]
    table = re.findall(r"`guardrail ([a-z ]+[a-z])", "\n".join(re.findall(r"^\|.*$", page, re.MULTILINE)))
    commands = dict(map(_command, table))
    asks_none = {name for name, one in commands.items() if "tracking_uri" not in {p.name for p in one.params}}
    named = re.search(r"No server is asked by\n?(.*?), which", page, re.DOTALL)
    assert named
    assert asks_none == set(re.findall(r"`guardrail ([a-z ]+)`", named[1]))


def test_no_page_says_that_attempts_are_not_counted_at_all() -> None:
    denied = re.compile(r"not counted in this version|Not enforced yet")
    assert [name for name, text in DOCS.items() if denied.search(text)] == []
    assert "/ 2^k" in DOCS["evaluation.md"]


def test_the_only_judge_is_the_only_one() -> None:
    assert plugins.names(JUDGES) == ("refusal",) or "The only judge of this version" not in DOCS["evaluation.md"]
