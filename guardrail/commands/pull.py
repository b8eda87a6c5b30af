"""``guardrail pull``: a registered adapter on this disk, exactly as it verified, or not at all."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.commands._output import say


@click.command("pull")
@click.argument("spec", metavar="NAME/VERSION|NAME@ALIAS")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    help="The directory to make; it must not be there.",
)
@trusting.DECIDER_KEY
@trusting.trust_options
@options.TRACKING_URI
@click.option("--base", default=None, help="The base that you will load it on, to compare: a directory or a Hub id.")
@options.REVISION
@trusting.BASE_SHA256
@trusting.HEAD
@options.OUTPUT
def command(
    spec: str,
    target: Path,
    decider_keys: tuple[Path, ...],
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    tracking_uri: str,
    base: str | None,
    revision: str | None,
    base_sha256: str | None,
    head: Path | None,
    output: str,
) -> None:
    """Download a registered adapter, if it verifies.

    It is verified as `guardrail verify` does it, and only then put at --to. What is at --to afterwards is what was
    verified; if anything does not hold, nothing is there.
    """
    from datetime import UTC, datetime

    from guardrail.commands import _verified as verified
    from guardrail.registry.read.pull import pull, require_free

    require_free(target)
    given = trusting.TrustGiven(trust, roots, root_threshold)
    digest = _base(base, revision, base_sha256)
    wanted = verified.VerifyWanted(spec, tracking_uri, decider_keys, given, digest, head)
    found = pull(target, lambda place: verified.check(place, wanted, datetime.now(UTC)))
    verified.tell(found, output)
    if output == "text":
        say(f"written     {target}")


def _base(name: str | None, revision: str | None, digest: str | None) -> str | None:
    """The digest to compare with; loading a base takes torch, so only where one is named."""
    from guardrail.errors import InvalidInput

    if name is None:
        return digest
    if digest is not None:
        raise InvalidInput("both --base and --base-sha256 were given", expected="one of them")
    from guardrail.commands import _output as show
    from guardrail.pipeline.base import base_model

    show.quiet()
    return str(base_model(name, revision).ref.digest)
