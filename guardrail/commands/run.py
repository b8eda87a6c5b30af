"""``guardrail run``: every stage in order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from guardrail.commands import _options as options


@click.command("run")
@click.argument("data")
@options.RUN
@options.POLICY
@options.BASE
@options.REVISION
@options.TASK
@options.training_options
@options.KEY
@options.TRACKING_URI
@options.OUTPUT
def command(
    data: str,
    run_dir: Path,
    policy: str | None,
    base: str | None,
    revision: str | None,
    tasks: tuple[str, ...],
    key: Path,
    tracking_uri: str,
    output: str,
    **given: Any,
) -> None:
    """Validate DATA, train, evaluate, decide and register: everything between fine-tuning and the registry.

    A stage whose inputs have not changed is not run again; a run that was interrupted goes on where it stopped.
    """
    options.quiet()
    from guardrail.evidence.keys import load_private
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.evaluation import evaluate_adapter
    from guardrail.pipeline.promotion import promote_run
    from guardrail.pipeline.training import train_adapter

    load_private(key)  # before an hour of training, not after
    run = options.open_run(run_dir, policy, base, revision, tasks)
    with run.locked(), options.progress_bar() as progress:
        validate_data(run, data)
        train_adapter(run, options.train_request(**given), progress)
        evaluate_adapter(run, progress)
    decision, record = promote_run(run_dir, tracking_uri=tracking_uri, key=key, now=datetime.now(UTC))
    where = (
        f"registered as {record.model} version {record.version}"
        if record.version
        else "denied, and the denial recorded"
    )
    options.emit(record, output, f"{options.decision_text(decision)}\n{where} (MLflow run {record.run_id})")
    options.raise_unless_passed(decision)
