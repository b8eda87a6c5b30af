"""What the commands print, and the exit code that a verdict owns. Imports click alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrail.errors import EvidenceMissing, PolicyDenied

if TYPE_CHECKING:
    from guardrail.records import Decision, Frozen, RegistryRecord

Progress = Callable[[str, int, int], None]


def quiet() -> None:
    """Keep other libraries' progress bars and chatter off the terminal; our own warnings stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    quiet_hub()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import warnings

    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("guardrail").setLevel(logging.WARNING)
    from guardrail.model.quiet import silence_transformers

    silence_transformers()


def quiet_hub() -> None:
    """The Hub's downloads without bars and without telling on anybody."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress on standard error: a bar in a terminal, nothing elsewhere (logs keep the results alone)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total, visible=done < total)

        yield report


def plain(text: str) -> str:
    """The same lines with every character that a terminal would obey instead of show written out."""
    lines = text.split("\n")
    return "\n".join("".join(char if char.isprintable() else ascii(char)[1:-1] for char in line) for line in lines)


def one_line(text: str) -> str:
    """A value from outside on the line that it was given: line breaks are written out, so it cannot add lines."""
    return plain(text).replace("\n", "\\n")


def emit(record: Frozen, output: str, text: str) -> None:
    """Print a record as it is stored, or a text about it."""
    from guardrail.evidence.digest import canonical

    click.echo(canonical(record).decode() if output == "json" else plain(text))


def decision_text(decision: Decision) -> str:
    """The decision and its findings, a line each."""
    from guardrail.policy.bases import NOT_PINNED, pins_base

    mark = {"PASSED": "held", "FAILED": "FAILED", "INCONCLUSIVE": "open"}
    attempt = f", attempt {decision.attempt} at this gate" if decision.attempt else ""
    target = f"{decision.model}@{decision.alias} under policy {decision.policy_name!r}"
    lines = [f"{decision.verdict.value}  {target}{attempt}"]
    lines += [] if pins_base(decision) else [f"  DANGER  {NOT_PINNED}"]
    for finding in decision.findings:
        lines.append(
            f"  {mark.get(finding.verdict.value, finding.verdict.value):<7} {one_line(finding.rule)}: "
            f"{one_line(finding.objective)}\n          {one_line(finding.reason)}"
        )
    return "\n".join(lines)


def registered_text(decision: Decision, record: RegistryRecord, run_dir: Path) -> str:
    """The decision, what became of it in the registry, and where to read on."""
    from guardrail.registry.experiment import PAGE

    lines = [decision_text(decision)]
    if record.version:
        alias = f", alias {record.alias}" if record.alias else f"; alias {decision.alias} points at a later version"
        lines.append(f"registered  {record.model} version {record.version}{alias}")
    else:
        lines.append("denied      nothing registered; the denial is recorded")
    lines += [f"mlflow run  {record.run_id} in experiment {record.experiment!r}", f"report      {run_dir / PAGE}"]
    return "\n".join(lines)


def raise_unless_passed(decision: Decision) -> None:
    """Turn a verdict into the exit code that it owns."""
    from guardrail.records import Verdict

    broken = [finding.rule for finding in decision.findings if finding.verdict is not Verdict.PASSED]
    if decision.verdict is Verdict.FAILED:
        raise PolicyDenied(
            "the policy denies this adapter: " + ", ".join(broken),
            next_step="train again with another method or cleaner data",
        )
    if decision.verdict is not Verdict.PASSED:
        raise EvidenceMissing(
            "the evidence does not prove the policy: " + ", ".join(broken),
            next_step="measure more behaviours, or what was not measured",
        )
