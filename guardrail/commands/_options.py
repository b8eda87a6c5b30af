"""Options and small helpers that several commands share. Imports click alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrail.errors import EvidenceMissing, InvalidInput, PolicyDenied

if TYPE_CHECKING:
    from guardrail.pipeline.run import Run
    from guardrail.records import Decision, Record

F = TypeVar("F", bound=Callable[..., Any])
Progress = Callable[[str, int, int], None]

RUN = click.option(
    "--run",
    "run_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run"),
    show_default=True,
    help="The run's directory: records, data, adapter.",
)
POLICY = click.option("--policy", default=None, help="Policy: a built-in name or a file.  [default: default]")
BASE = click.option("--base", default=None, help="Base model: a Hub id, a directory, or 'testbed'.  [default: testbed]")
REVISION = click.option("--revision", default=None, help="Commit of a Hub base to pin (default: the newest, recorded).")
TASK = click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task for utility: one of the testbed's, or NAME=FORMAT:PATH. May be repeated.",
)
OUTPUT = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json prints the record as it is stored.",
)
KEY = click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".guardrail/keys/guardrail.key"),
    show_default=True,
    help="Private key that signs the decision (guardrail keys init).",
)
TRACKING_URI = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="The MLflow server or store.",
)


def training_options(command: F) -> F:
    """What ``train`` and ``run`` can be told about training."""
    for option in reversed(
        (
            click.option("--method", default="der", show_default=True, help="Continual-learning method."),
            click.option(
                "--set",
                "hyperparameters",
                multiple=True,
                metavar="NAME=VALUE",
                help="A hyperparameter of the method, such as alpha=5. May be repeated.",
            ),
            click.option("--epochs", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True),
            click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True),
            click.option(
                "--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True
            ),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
            click.option("--lora-rank", type=click.IntRange(min=1), default=16, show_default=True),
            click.option("--lora-alpha", type=click.FloatRange(min=0, min_open=True), default=32.0, show_default=True),
            click.option(
                "--lora-target",
                "lora_targets",
                multiple=True,
                help="Module to adapt (default: every linear layer but the head). May be repeated.",
            ),
            click.option(
                "--replay",
                type=click.Path(dir_okay=False),
                default=None,
                help="JSONL of prompts to replay (field 'prompt'); the testbed brings its own.",
            ),
            click.option(
                "--baseline", is_flag=True, help="Allow a method that the policy forbids; it cannot be promoted."
            ),
        )
    ):
        command = option(command)
    return command


def train_request(**given: Any) -> Any:
    """The training request that the options of :func:`training_options` describe."""
    from guardrail.pipeline.training import TrainRequest
    from guardrail.train.stage import Lora
    from guardrail.train.trainer import Settings

    return TrainRequest(
        method=given["method"],
        hyperparameters=parse_settings(given["hyperparameters"]),
        replay=given["replay"],
        settings=Settings(
            epochs=given["epochs"],
            batch_size=given["batch_size"],
            learning_rate=given["learning_rate"],
            seed=given["seed"],
        ),
        lora=Lora(given["lora_rank"], given["lora_alpha"], 0.0, tuple(given["lora_targets"])),
        baseline=given["baseline"],
    )


def parse_settings(pairs: tuple[str, ...]) -> dict[str, float | str]:
    """``("alpha=5",)`` to ``{"alpha": 5.0}``."""
    result: dict[str, float | str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--set {pair!r}", expected="NAME=VALUE, such as alpha=5")
        try:
            result[name] = float(value)
        except ValueError:
            result[name] = value
    return result


def open_run(path: Path, policy: str | None, base: str | None, revision: str | None, tasks: tuple[str, ...]) -> Run:
    """The run at ``path``: started with what is given, or gone on with what it was started with."""
    from guardrail.pipeline.run import Run, RunConfig
    from guardrail.policy.load import find_policy
    from guardrail.policy.soundness import require_sound

    run = Run(path)
    known = run.config()
    if known is None or any((policy, base, revision, tasks)):
        loaded = find_policy(policy or "default") if policy or known is None else run.policy()
        require_sound(loaded)
        start = known or RunConfig(policy_source=loaded.source, base="testbed")
        run.start(
            loaded,
            RunConfig(
                policy_source=loaded.source,
                base=base or start.base,
                revision=revision or (None if base else start.revision),
                tasks=tasks or start.tasks,
            ),
        )
    return run


def quiet() -> None:
    """Keep other libraries' progress bars and chatter off the terminal; our own warnings stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import warnings

    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("guardrail").setLevel(logging.WARNING)
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    from guardrail.model.quiet import silence_transformers

    silence_transformers()


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


def emit(record: Record, output: str, text: str) -> None:
    """Print a record as it is stored, or a text about it."""
    from guardrail.evidence.digest import canonical

    click.echo(canonical(record).decode() if output == "json" else text)


def decision_text(decision: Decision) -> str:
    """The decision and its findings, a line each."""
    mark = {"PASSED": "held", "FAILED": "FAILED", "INCONCLUSIVE": "open"}
    lines = [f"{decision.verdict.value}  {decision.model}@{decision.alias} under policy {decision.policy_name!r}"]
    for finding in decision.findings:
        lines.append(
            f"  {mark.get(finding.verdict.value, finding.verdict.value):<7} {finding.rule}: {finding.objective}"
            f"\n          {finding.reason}"
        )
    return "\n".join(lines)


def raise_unless_passed(decision: Decision) -> None:
    """Turn a verdict into the exit code that it owns."""
    from guardrail.records import Verdict

    broken = [finding.rule for finding in decision.findings if finding.verdict is not Verdict.PASSED]
    if decision.verdict is Verdict.FAILED:
        raise PolicyDenied(
            "the policy denies this adapter: " + ", ".join(broken),
            next_step="the denial is recorded; train again with another method or cleaner data",
        )
    if decision.verdict is not Verdict.PASSED:
        raise EvidenceMissing(
            "the evidence does not prove the policy: " + ", ".join(broken),
            next_step="measure more behaviours, or what was not measured",
        )
