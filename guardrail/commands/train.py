"""``guardrail train``: fine-tune a LoRA adapter with a method that the policy allows."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show


@click.command("train")
@options.RUN
@options.training_options
@options.SIGN_KEY
@options.SIGN_PUBLIC_KEY
@options.OUTPUT
def command(run_dir: Path, sign_key: str | None, public_key: Path | None, output: str, **given: Any) -> None:
    """Train on the rows that the data stage of the run left in.

    On several devices: accelerate launch -m guardrail train ... (the batch size stays that of all together). With
    --use_fsdp the launcher makes them share the base's layers instead of holding all of them each.
    """
    show.quiet()
    from guardrail.pipeline.gate.signing import prepare, sign_stage
    from guardrail.pipeline.run import Run
    from guardrail.pipeline.training import train_adapter
    from guardrail.train.processes import is_first

    run = Run(run_dir)
    config = run.config()
    request = options.train_request(config.base if config else "", **given)
    signer = options.stage_signer(sign_key, public_key) if is_first() else None  # the others have nothing to sign
    with run.locked() if is_first() else nullcontext(), show.progress_bar() as progress:
        prepare(run, "train", signs=sign_key is not None, now=datetime.now(UTC))
        record = train_adapter(run, request, progress)
        sign_stage(run, "train", signer, datetime.now(UTC))
    if not is_first():
        return
    show.emit(
        record,
        output,
        (
            f"{record.method} on {record.rows} rows in {record.seconds:.1f} s "
            f"({record.tokens_per_second:.0f} tokens/s, {record.device}); "
            f"{record.rows_too_long} rows too long, {record.replay_rows} rows replayed"
            f"{f', {len(record.merged)} adapters of other runs merged in' if record.merged else ''}",
            f"  adapter {run.path / 'adapter'}  sha256 {record.manifest}",
        ),
    )
