"""``guardrail evaluate``: measure what the policy's rules need."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _output as show


@click.command("evaluate")
@options.RUN
@options.TASK
@options.SUITE
@options.GATE
@options.SIGN_KEY
@options.SIGN_PUBLIC_KEY
@options.OUTPUT
def command(
    run_dir: Path,
    tasks: tuple[str, ...],
    suites: tuple[str, ...],
    gate: str | None,
    sign_key: str | None,
    public_key: Path | None,
    output: str,
) -> None:
    """Measure what the policy asks for, on adapter and base.

    Attack success, over-refusal, utility and coherence, on the same items. In a run with a ticket, the gated server is
    told of the adapter first (--gate), which makes it an attempt; then prompts are asked in the order that the ticket's
    nonce gives. A suite that the policy withholds is read from the policy's path, or from --suite.
    """
    show.quiet()
    from guardrail.pipeline.answer_errors import frequent
    from guardrail.pipeline.evaluation import check_evaluation, evaluate_adapter
    from guardrail.pipeline.gate.signing import bind, prepare, sign_stage

    signer = options.stage_signer(sign_key, public_key)
    opened = options.open_run(run_dir, None, None, None, tasks, suites)
    with opened.run.locked(), show.progress_bar() as progress:
        opened.start()
        prepare(opened.run, "evaluate", signs=signer is not None, now=datetime.now(UTC))
        check_evaluation(opened.run)
        bind(opened.run, gate, datetime.now(UTC))
        report = evaluate_adapter(opened.run, progress)
        sign_stage(opened.run, "evaluate", signer, datetime.now(UTC))
    lines = [f"{'measured':<22}{'on':<12}{'attack':<10}{'candidate':>11}{'bounds':>17}{'base':>9}"]
    for m in report.measurements:
        bounds = f"{m.candidate.lower:.1%} - {m.candidate.upper:.1%}"
        lines.append(
            f"{m.sli.value:<22}{m.suite:<12}{m.attack or '-':<10}{m.candidate.hits:>5}/{m.candidate.n:<5}"
            f"{bounds:>17}{m.base.value:>9.1%}"
        )
    show.emit(report, output, [*lines, *show.error_lines(frequent(opened.run))])
