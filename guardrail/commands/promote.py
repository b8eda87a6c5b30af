"""``guardrail promote``: decide under the policy, sign, and register only what passed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show
from guardrail.commands._promoted import promote


@click.command("promote")
@options.RUN
@options.KEY
@options.PUBLIC_KEY
@options.TRACKING_URI
@options.ARTIFACT_LOCATION
@options.OUTPUT
@click.option("--policy", default=None, help="Decide under this policy, if the run's records suffice for it.")
@click.option("--dry-run", is_flag=True, help="Decide and write the report; sign nothing, send nothing to MLflow.")
def command(
    run_dir: Path,
    key: str,
    public_key: Path | None,
    tracking_uri: str,
    artifact_location: str | None,
    output: str,
    policy: str | None,
    dry_run: bool,
) -> None:
    """Decide on a run, sign, and register what passed.

    Every decision is recorded in MLflow; the adapter is registered only if the policy holds.

    Exits with 0 if promoted, 10 if the policy denies, 3 if the evidence is inconclusive, 4 if it waits for approvals
    (promote again, or let the last approval complete it).

    With --policy the run is decided anew under another one, in seconds, where each stage read the same of both: limits,
    validity and comments make no stage run again. Else the error names the stage that must.
    """
    chosen = options.sound_policy(policy) if policy else None
    if not dry_run:
        signer = options.signer(key, public_key)
        promote(
            run_dir,
            tracking_uri=tracking_uri,
            key=signer,
            output=output,
            artifact_location=artifact_location,
            policy=chosen,
        )
        return
    from guardrail.pipeline.answer_errors import frequent
    from guardrail.pipeline.promotion import decide_run
    from guardrail.pipeline.run import Run
    from guardrail.registry.record.decision_run import PAGE

    run = Run(run_dir)
    with run.locked():
        decision = decide_run(run, datetime.now(UTC), chosen)
        errors = frequent(run)
    lines = [*show.decision_lines(decision), *show.error_lines(errors), f"report      {run_dir / PAGE}"]
    show.emit(decision, output, lines)
    show.raise_unless_passed(decision, errors)
