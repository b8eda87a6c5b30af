"""``guardrail approve``: a person's signed yes to a candidate that waits."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _trusting as trusting
from guardrail.commands import _voting as voting


@click.command("approve")
@voting.voting_options
@click.option("--reason", default="", callback=trusting.optional_reason, help="Why; it is signed and kept for ever.")
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
    """Look at a candidate that waits for NAME@ALIAS, and sign that it may be promoted.

    Downloads what the server sealed, checks it and decides again before it asks. The last approval that was missing
    promotes the candidate.
    """
    given = trusting.TrustGiven(trust, roots, root_threshold)
    ballot = voting.Ballot(spec, evidence, True, reason, tracking_uri, output)
    voting.vote(ballot, key=key, public_key=public_key, trust=given, decider_keys=decider_keys, yes=yes)
