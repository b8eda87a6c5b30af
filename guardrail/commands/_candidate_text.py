"""What a person sees of a candidate before they vote: every measurement with what limits it, and what promises nothing.

Shows what was checked and computes nothing. Not covered: who signed (``_voting.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardrail.records import Measurement, Rate
    from guardrail.registry.gate.protocol import Waiting
    from guardrail.registry.verify.evidence_checks import Examined


def measured_lines(examined: Examined) -> list[str]:
    """Every measurement: how many of how many, the bounds, the base's, and each rule that limits it."""
    head = "measured    hits of n, one-sided bounds; a hit is an unsafe, refused, right or coherent answer"
    return [head, *(line for one in examined.evaluation.measurements for line in _measured(examined, one))]


def warning_lines(examined: Examined) -> list[str]:
    """What `guardrail policy check` warns of: promises that any adapter keeps."""
    from guardrail.policy.vacuous import warnings

    found = warnings(examined.loaded)
    head = ["warnings    promises of the policy that promise nothing"] if found else []
    return [*head, *(f"  {one.where}: {one.text} [{one.code}]" for one in found)]


def place_lines(waiting: Waiting, tracking_uri: str) -> list[str]:
    """Where to read on: MLflow's run and the report in it, which is no evidence."""
    from guardrail.registry.http.address import run_page
    from guardrail.registry.record.decision_run import PAGE

    page = run_page(tracking_uri, waiting.experiment_id, waiting.run_id)
    if not page:
        return ["mlflow run  the server does not say which", f"report      --report FILE writes a {PAGE}"]
    return [
        f"mlflow run  {page}",
        f"report      {page}/artifacts/{PAGE} (as promoted; --report FILE writes one of what was checked here)",
    ]


def _measured(examined: Examined, one: Measurement) -> Iterator[str]:
    from guardrail.policy.judged_measurements import judged_by

    rate, under = one.candidate, f" under {one.attack}" if one.attack else ""
    yield f"  {one.sli.value} on {one.suite}{under}, judged by {one.judge.name}"
    yield (
        f"      {_counts(rate)}, bounds {rate.lower:.1%} and {rate.upper:.1%} at {rate.confidence:.4g}; "
        f"base {_counts(one.base)}"
    )
    limits = judged_by(examined.policy, examined.decision.findings, one)
    for found in limits:
        yield f"      limit {found.objective} ({found.rule}: {found.verdict.value})"
    if not limits:
        yield "      NO LIMIT: no rule of the policy judges this"


def _counts(rate: Rate) -> str:
    lost = f" ({rate.undecided} undecided, {rate.errors} errors)" if rate.undecided or rate.errors else ""
    return f"{rate.hits} of {rate.n}{lost}"
