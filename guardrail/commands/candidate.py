"""``guardrail candidate``: hand a trained adapter to a separate evaluation job, by way of MLflow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands._output import say


@click.group("candidate")
def command() -> None:
    """Hand a trained adapter to a separate evaluation job.

    With its ticket and statements, by way of MLflow.
    """


@command.command()
@options.RUN
@options.TRACKING_URI
@options.ARTIFACT_LOCATION
def push(run_dir: Path, tracking_uri: str, artifact_location: str | None) -> None:
    """Store what was trained in MLflow, and print its digest.

    The adapter with its records, ticket and statements, as a logged model.

    The rows and everything else that holds texts stay here. It is no proposal: nothing is registered. The id of the
    logged model is printed to standard error: pull takes it, where others were put under the same digest.
    """
    from guardrail.pipeline.gate.handover import push_candidate

    now = datetime.now(UTC)
    pushed = push_candidate(run_dir, tracking_uri=tracking_uri, now=now, artifact_location=artifact_location)
    say(pushed.digest)
    say(f"  candidate {pushed.model_id}", err=True)


@command.command()
@click.argument("digest")
@options.RUN
@click.option(
    "--policy", default=None, help="Your own copy of the policy: the candidate's must equal it; suites lie beside it."
)
@click.option("--base", default=None, help="Where the base is here.  [default: what the candidate names]")
@options.REVISION
@click.option(
    "--candidate", "model_id", default=None, help="The id that push printed, where others were put under this digest."
)
@options.TRACKING_URI
def pull(
    digest: str,
    run_dir: Path,
    policy: str | None,
    base: str | None,
    revision: str | None,
    model_id: str | None,
    tracking_uri: str,
) -> None:
    """Make the candidate with this DIGEST a run in a new directory.

    All of it is checked first.

    Then: guardrail evaluate --gate URI --sign-key KEY, and guardrail promote. Whose signatures the statements carry is
    not asked here; the gated server does.
    """
    from guardrail.pipeline.gate.handover import pull_candidate
    from guardrail.policy.load import find_policy

    own = find_policy(policy) if policy else None
    pulled = pull_candidate(
        digest,
        run_dir,
        tracking_uri=tracking_uri,
        now=datetime.now(UTC),
        policy=own,
        base=base,
        revision=revision,
        model_id=model_id,
    )
    ticket, adapter = pulled.candidate.ticket, pulled.candidate.adapter
    say(
        f"{adapter.method!r} on {adapter.rows} rows, for {ticket.model!r}@{ticket.alias} "
        f"(ticket good until {ticket.expires:%Y-%m-%d %H:%M} UTC)",
        f"  policy  sha256 {pulled.candidate.policy.digest}"
        f"{'' if own else ' (not compared with yours: give --policy)'}",
        f"  base    {adapter.base.name!r}, sha256 {adapter.base.digest}",
        f"  run     {run_dir}",
    )
    if pulled.left_out:
        tasks = ", ".join(map(repr, pulled.left_out))
        say(f"  tasks that were files there; name your own with evaluate --task: {tasks}")
    withheld = ", ".join(repr(name) for name, plan in pulled.candidate.policy.policy.suites.items() if plan.withheld)
    if withheld:
        say(f"  suites that the trainer did not have; evaluate needs them (--suite NAME=FILE): {withheld}")
