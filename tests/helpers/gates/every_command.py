"""Every command of the command line, and which of them have an option. Not a test file."""

from __future__ import annotations

from collections.abc import Iterator

import click

from guardrail.cli import cli


def every_command(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The words of every command, and the command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from every_command(found, (*before, name))
        else:
            yield (*before, name), found


def asks(*options: str) -> set[tuple[str, ...]]:
    """The commands that have one of these options."""
    return {
        words for words, found in every_command(cli) if any(set(param.opts) & set(options) for param in found.params)
    }
