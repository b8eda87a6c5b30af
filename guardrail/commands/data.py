"""``guardrail data``: look at training data before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show


@click.group("data")
def command() -> None:
    """Check training data; flag and quarantine suspected poison."""


@command.command()
@click.argument("data")
@options.RUN
@options.POLICY
@options.BASE
@options.REVISION
@options.OUTPUT
def validate(data: str, run_dir: Path, policy: str | None, base: str | None, revision: str | None, output: str) -> None:
    """Check DATA (JSONL, JSON, CSV, TSV or Parquet; or testbed:TASK[:POISON[:triggered]]).

    Flagged rows go to quarantine with score and reason (RUN/data/quarantine.jsonl); the rest is what training reads.
    """
    show.quiet()
    from guardrail.pipeline.data import validate_data

    opened = options.open_run(run_dir, policy, base, revision, ())
    with opened.run.locked():
        opened.start()
        report = validate_data(opened.run, data)
    checks = "".join(f"\n  {c.name}: {'held' if c.passed else f'{c.unexpected} of {c.checked} rows not as expected'}"
                     for c in report.expectations)  # fmt: skip
    found = "".join(f"\n  {d.name}: {d.flagged} flagged (threshold {d.threshold:.3g})" for d in report.detectors)
    show.emit(report, output, (
        f"{report.source}: {report.rows} rows, {report.flagged} flagged, {report.quarantined} quarantined, "
        f"{report.flagged_left_in} flagged left in{checks}{found}\n  training reads {report.training_rows} rows"
    ))  # fmt: skip
