"""``guardrail demo``: the whole product on the embedded testbed, for real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardrail.commands import _output as show

if TYPE_CHECKING:
    from guardrail.demo import ShownRate, Summary

EXPECTED = ("FAILED", "FAILED", "PASSED", "PASSED", "REFUSED")


@click.command("demo")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where everything goes.",
)
@click.option(
    "--task",
    type=click.Choice(["sentiment", "arithmetic", "code"]),
    default="sentiment",
    show_default=True,
    help="The user task that is fine-tuned on.",
)
def command(directory: Path, task: str) -> None:
    """Catch a poisoned fine-tuning job, and get a safe one through.

    The same job, with a method that keeps safety. Trains four adapters on the embedded testbed, measures them, and puts
    only the one that is proven safe and useful into a fresh MLflow store. Takes a few minutes on two cores; needs no
    network.
    """
    show.shout("guardrail demo: four fine-tuning jobs, one gate", err=True)
    show.say("loading torch and transformers ...", err=True)
    show.quiet()
    from guardrail.demo import demo
    from guardrail.registry.record.decision_run import PAGE

    with show.progress_bar() as progress:
        summary = demo(directory, task, lambda title: show.say(f"- {title}", err=True), progress)
    _table(summary)
    reports = [directory / outcome.name / PAGE for outcome in summary.scenarios]
    written = [str(path) for path in reports if path.exists()]
    key = directory / "keys" / "guardrail.pub"
    show.say(
        "",
        f"summary   {directory / 'summary.json'}",
        *(f"{'' if number else 'reports':<10}{path}" for number, path in enumerate(written)),
        f"registry  mlflow ui --backend-store-uri {summary.tracking_uri}",
        f"verify    guardrail verify {summary.model}@production --decider-key {key} "
        f"--tracking-uri {summary.tracking_uri}",
    )
    if tuple(outcome.decision for outcome in summary.scenarios) != EXPECTED:
        raise click.exceptions.Exit(1)


def _table(summary: Summary) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    task = summary.scenarios[0].task
    title = f"task: {task}; in brackets one-sided 95% bounds (of utility the lower)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("scenario", "ASR", "over-\nrefusal", "utility", "decision", "v", "s"):
        words = name in ("scenario", "decision")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "scenario")
    colours = {"PASSED": "green", "REFUSED": "green", "FAILED": "red"}
    for outcome in summary.scenarios:
        colour = colours.get(outcome.decision, "yellow")
        table.add_row(
            show.cell(outcome.title),
            _cell(outcome.asr, upper=True),
            _cell(outcome.over_refusal, upper=True),
            _cell(outcome.utility, upper=False),
            f"[{colour}]{show.cell(outcome.decision)}[/{colour}]",
            show.cell(outcome.model_version or "-"),
            f"{outcome.seconds:.0f}",
        )
    show.say_table(table)
    for outcome in summary.scenarios:
        for reason in outcome.reasons:
            show.say(f"  {outcome.name}: {reason}")


def _cell(share: ShownRate | None, *, upper: bool) -> str:
    if share is None:
        return "-"
    return f"{share.value:.1%}\n\\[{share.upper if upper else share.lower:.1%}]"
