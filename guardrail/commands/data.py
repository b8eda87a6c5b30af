"""``guardrail data``: look at training data before anything is trained on it."""

from __future__ import annotations

from datetime import UTC, datetime
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
@options.GATE
@options.SIGN_KEY
@options.SIGN_PUBLIC_KEY
@options.TRAIN_KEY
@options.OUTPUT
def validate(
    data: str,
    run_dir: Path,
    policy: str | None,
    base: str | None,
    revision: str | None,
    gate: str | None,
    sign_key: str | None,
    public_key: Path | None,
    train_keys: tuple[Path, ...],
    output: str,
) -> None:
    """Check DATA, and put suspected poison aside.

    DATA is JSONL, JSON, CSV, TSV or Parquet; or testbed:TASK[:POISON[:triggered]]. Flagged rows go to quarantine with
    score and reason (RUN/data/quarantine.jsonl); the rest is what training reads.
    """
    show.quiet()
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.gate.signing import prepare, sign_stage

    opened = options.open_run(run_dir, policy, base, revision, ())
    signer = options.stage_signer(sign_key, public_key)
    with opened.run.locked():
        opened.start()
        options.take_ticket(opened.run, gate, signer, datetime.now(UTC), train_keys)
        prepare(opened.run, "data", signs=signer is not None, now=datetime.now(UTC))
        report = validate_data(opened.run, data)
        sign_stage(opened.run, "data", signer, datetime.now(UTC))
    show.emit(
        report,
        output,
        [
            f"{report.source}: {report.rows} rows, {report.flagged} flagged, {report.quarantined} quarantined, "
            f"{report.flagged_left_in} flagged left in",
            *(
                f"  {c.name}: {'as expected' if c.passed else f'{c.unexpected} of {c.checked} rows not as expected'}"
                for c in report.expectations
            ),
            *(f"  {d.name}: {d.flagged} flagged (threshold {d.threshold:.3g})" for d in report.detectors),
            f"  training reads {report.training_rows} rows",
        ],
    )
