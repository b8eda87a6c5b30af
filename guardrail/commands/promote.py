"""``guardrail promote``: decide under the policy, sign, and register only what passed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show
from guardrail.errors import AwaitingApproval


@click.command("promote")
@options.RUN
@options.KEY
@options.PUBLIC_KEY
@options.TRACKING_URI
@options.OUTPUT
@click.option("--dry-run", is_flag=True, help="Decide and print; sign nothing, record nothing.")
def command(run_dir: Path, key: str, public_key: Path | None, tracking_uri: str, output: str, dry_run: bool) -> None:
    """Decide on a run, sign the decision and record it in MLflow; register the adapter only if the policy holds.

    Exits with 0 if promoted, 10 if the policy denies, 3 if the evidence is inconclusive, 4 if it waits for approvals
    (promote again, or let the last approval complete it).
    """
    from guardrail.pipeline.promotion import decide_run, promote_run
    from guardrail.pipeline.run import Run

    now = datetime.now(UTC)
    if dry_run:
        decision = decide_run(Run(run_dir), now)
        show.emit(decision, output, f"{show.decision_text(decision)}\nreport      {run_dir / show.PAGE}")
    else:
        signer = options.signer(key, public_key)
        try:
            decision, record = promote_run(run_dir, tracking_uri=tracking_uri, key=signer, now=now)
        except AwaitingApproval:
            waits = decide_run(Run(run_dir), now)
            show.emit(waits, output, f"{show.decision_text(waits)}\nwaits       for persons to approve it")
            raise
        show.emit(record, output, show.registered_text(decision, record, run_dir))
    show.raise_unless_passed(decision)
