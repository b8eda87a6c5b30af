"""docs/cli.md shows every command's ``--help`` as it is, and every exit code that an error owns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from repository import ROOT

from guardrail import errors
from guardrail.cli import cli
from guardrail.errors import GuardrailError
from guardrail.pipeline import run

PAGE = ROOT / "docs" / "cli.md"
BEGIN, END = "<!-- help:begin -->", "<!-- help:end -->"
WIDTH = 100


def test_the_page_shows_the_help_of_every_command(golden: Callable[[Path, str], None]) -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    golden(PAGE, f"{before}{BEGIN}\n{''.join(_sections())}{END}{after}")


def test_the_page_lists_the_exit_code_of_every_error() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GuardrailError)]
    assert {kind.exit_code for kind in kinds} | {0, 130} == listed


def test_the_page_lists_every_record_of_a_run() -> None:
    page = PAGE.read_text(encoding="utf-8")
    files = (run.JOURNAL, run.LOCK, run.POLICY, run.CONFIG, *(f"{stage}.json" for stage in run.STAGES))
    assert [name for name in files if f"| `{name}` |" not in page] == []


def _sections() -> Iterator[str]:
    for context in _contexts(_context(cli, "guardrail", None)):
        text = context.command.get_help(context)
        yield f"\n### {context.command_path}\n\n```text\n{text}\n```\n"


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _contexts(_context(command, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    command._help_option = None  # click keeps the option of whoever asked first, and another test may have asked
    return click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=["-h", "--help"]
    )
