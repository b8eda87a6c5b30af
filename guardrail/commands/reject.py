"""``guardrail reject``: a person's signed no to a candidate that waits."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _trusting as trusting
from guardrail.commands import _voting as voting


@click.command("reject")
@voting.voting_options
@click.option("--reason", required=True, callback=trusting.reason, help="Why; it is signed and kept for ever.")
def command(
    spec: str,
    evidence: str | None,
    key: str,
    public_key: Path | None,
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    decider_keys: tuple[Path, ...],
    tracking_uri: str,
    yes: bool,
    output: str,
    reason: str,
) -> None:
    """Look at a candidate that waits for NAME@ALIAS, and sign that it must not be promoted.

    Shows what `guardrail approve` shows. One no outweighs every yes, and is final for this evidence.
    """
    given = trusting.TrustGiven(trust, roots, root_threshold)
    ballot = voting.Ballot(spec, evidence, False, reason, tracking_uri, output)
    voting.vote(ballot, key=key, public_key=public_key, trust=given, decider_keys=decider_keys, yes=yes)
