"""``guardrail keys``: make the key pair that decisions are signed with."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("keys")
def command() -> None:
    """Make signing keys."""


@command.command("init")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".guardrail/keys"),
    show_default=True,
    help="Where the two files go.",
)
@click.option("--name", default="guardrail", show_default=True, help="Name of the files: NAME.key and NAME.pub.")
def init(directory: Path, name: str) -> None:
    """Make an Ed25519 key pair; an existing key is never overwritten."""
    from guardrail.evidence import keys

    pair = keys.init(directory, name)
    click.echo(f"private key  {pair.private}   (mode 0600: keep it secret, never commit it)")
    click.echo(f"public key   {pair.public}   (give it to whoever verifies)")
    click.echo(f"key id       {pair.key_id}")
