"""``guardrail train``: fine-tune a LoRA adapter with a method that the policy allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show


@click.command("train")
@options.RUN
@options.training_options
@options.OUTPUT
def command(run_dir: Path, output: str, **given: Any) -> None:
    """Train on the rows that the data stage of the run left in."""
    show.quiet()
    from guardrail.pipeline.run import Run
    from guardrail.pipeline.training import train_adapter

    run = Run(run_dir)
    config = run.config()
    request = options.train_request(config.base if config else "", **given)
    with run.locked(), show.progress_bar() as progress:
        record = train_adapter(run, request, progress)
    show.emit(record, output, (
        f"{record.method} on {record.rows} rows in {record.seconds:.1f} s ({record.tokens_per_second:.0f} tokens/s, "
        f"{record.device}); {record.rows_too_long} rows too long, {record.replay_rows} rows replayed\n"
        f"  adapter {run.path / 'adapter'}  sha256 {record.manifest}"
    ))  # fmt: skip
