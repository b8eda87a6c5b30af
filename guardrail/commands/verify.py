"""``guardrail verify``: does the registry hold what was signed? Needs public keys only."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting


@click.command("verify")
@click.argument("spec", metavar="NAME/VERSION|NAME@ALIAS")
@trusting.VERIFYING_KEY
@trusting.trust_options
@options.TRACKING_URI
@trusting.BASE_SHA256
@trusting.HEAD
@options.OUTPUT
def command(
    spec: str,
    key_files: tuple[Path, ...],
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    tracking_uri: str,
    base_sha256: str | None,
    head: Path | None,
    output: str,
) -> None:
    """Download a registered adapter and check it against its signed evidence.

    With --key: was it signed by this key? With --trust, against a gated server: did each stage sign, by whoever may,
    did enough persons agree, was it not revoked, and does the alias point where the server's ledger says?
    """
    from datetime import UTC, datetime

    from guardrail.commands import _verified as verified
    from guardrail.registry.verify.verify import workplace

    given = trusting.TrustGiven(trust, roots, root_threshold)
    wanted = verified.Wanted(spec, tracking_uri, key_files, given, base_sha256, head)
    with workplace() as place:
        found = verified.check(place, wanted, datetime.now(UTC))
    verified.tell(found, output)
