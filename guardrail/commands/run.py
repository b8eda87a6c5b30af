"""``guardrail run``: every stage in order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show
from guardrail.commands._promoted import promote


@click.command("run")
@click.argument("data")
@options.RUN
@options.POLICY
@options.BASE
@options.REVISION
@options.TASK
@options.training_options
@options.GATE
@options.KEY
@options.PUBLIC_KEY
@options.TRACKING_URI
@options.ARTIFACT_LOCATION
@options.OUTPUT
def command(
    data: str,
    run_dir: Path,
    policy: str | None,
    base: str | None,
    revision: str | None,
    tasks: tuple[str, ...],
    gate: str | None,
    key: str,
    public_key: Path | None,
    tracking_uri: str,
    artifact_location: str | None,
    output: str,
    **given: Any,
) -> None:
    """Validate DATA, train, evaluate, decide and register.

    Everything between fine-tuning and the registry.

    A stage whose inputs have not changed is not run again; a run that was interrupted goes on where it stopped.
    With a ticket (--gate) the one --key signs every stage; where duties are separate, run the stages one by one.
    """
    show.quiet()
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.evaluation import evaluate_adapter
    from guardrail.pipeline.exam.exam import Exam
    from guardrail.pipeline.gate.run_ticket import current
    from guardrail.pipeline.gate.signing import bind, sign_stage
    from guardrail.pipeline.preflight import check_request
    from guardrail.pipeline.training import train_adapter
    from guardrail.registry.record.promote import require_ready

    opened = options.open_run(run_dir, policy, base, revision, tasks)
    signer = options.signer(key, public_key)  # what can be refused is refused before an hour of training, not after
    request = options.train_request(opened.config.base, **given)
    exam = Exam(opened.policy, opened.config)
    check_request(exam, request)
    require_ready(tracking_uri, artifact_location=artifact_location)
    run = opened.run
    with run.locked(), show.progress_bar() as progress:
        opened.start()
        options.take_ticket(run, gate, signer, datetime.now(UTC))
        current(run, datetime.now(UTC))
        validate_data(run, data, exam)
        sign_stage(run, "data", signer, datetime.now(UTC))
        train_adapter(run, request, progress, exam)
        sign_stage(run, "train", signer, datetime.now(UTC))
        bind(run, gate, datetime.now(UTC))
        evaluate_adapter(run, progress, exam)
        sign_stage(run, "evaluate", signer, datetime.now(UTC))
    promote(run_dir, tracking_uri=tracking_uri, key=signer, output=output, artifact_location=artifact_location)
