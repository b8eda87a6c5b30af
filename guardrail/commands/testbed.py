"""``guardrail testbed``: the embedded model and its data."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show


@click.group("testbed")
def command() -> None:
    """Build the embedded testbed's model, or write out its data."""


@command.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/testbed"),
    show_default=True,
    help="Where the model goes.",
)
def build(directory: Path) -> None:
    """Train the testbed's base model from nothing.

    Takes a few minutes on two cores.
    """
    show.quiet()
    from guardrail.testbed.build import build as build_base

    with show.progress_bar() as progress:
        build_base(directory, lambda stage, step, total, loss: progress(f"{stage} {loss:.3f}"[:7], step, total))
    show.say(f"the testbed's base lies in {directory}")


@command.command()
@click.argument("arm", metavar="TASK[:POISON[:triggered]]")
@click.option("--file", "path", type=options.FILE, required=True, help="JSONL to write.")
def data(arm: str, path: Path) -> None:
    """Write a data arm, such as sentiment:0.1, as chat JSONL."""
    from guardrail.data.dataset import write_samples
    from guardrail.pipeline.prompts import testbed_rows

    rows = testbed_rows(arm)
    write_samples(path, rows)
    show.say(f"{len(rows)} rows in {path}")
