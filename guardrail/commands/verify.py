"""``guardrail verify``: does the registry hold what was signed? Needs public keys only."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.errors import InvalidInput


@click.command("verify")
@click.argument("spec", metavar="[NAME/VERSION|NAME@ALIAS]", required=False)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Check an adapter on this disk, with its evidence/ beside it; no server is asked.",
)
@trusting.DECIDER_KEY
@trusting.trust_options
@options.TRACKING_URI
@trusting.BASE_SHA256
@trusting.HEAD
@options.OUTPUT
def command(
    spec: str | None,
    directory: Path | None,
    decider_keys: tuple[Path, ...],
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    tracking_uri: str,
    base_sha256: str | None,
    head: Path | None,
    output: str,
) -> None:
    """Check an adapter against its signed evidence.

    One that is registered, or one on this disk. Downloads every file. With --decider-key: was it signed by this key?
    With --trust, against a gated server: did each stage sign, by whoever may, did enough persons agree, was it not
    revoked, and does the alias point where the server's ledger says?

    With --directory nothing is downloaded; what only the server's ledger knows is then named as not checked.
    """
    from datetime import UTC, datetime

    from guardrail.commands import _verified as verified
    from guardrail.registry.verify.verify import workplace

    now, given = datetime.now(UTC), trusting.TrustGiven(trust, roots, root_threshold)
    if directory is not None:
        verified.tell_directory(
            verified.check_directory(directory, spec, decider_keys, given, base_sha256, now), output
        )
        return
    if spec is None:
        raise InvalidInput("nothing to verify was named", expected="NAME/VERSION, NAME@ALIAS or --directory DIRECTORY")
    wanted = verified.VerifyWanted(spec, tracking_uri, decider_keys, given, base_sha256, head)
    with workplace() as place:
        found = verified.check(place, wanted, now)
    verified.tell(found, output)
