"""``guardrail keys``: make the key pairs that sign, and show whose key a file or a service holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from guardrail.commands import _options as options
from guardrail.commands._output import say


@click.group("keys")
def command() -> None:
    """Make and show signing keys."""


@command.command("init")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".guardrail/keys"),
    show_default=True,
    help="Where the two files go.",
)
@click.option("--name", default="guardrail", show_default=True, help="Name of the files: NAME.key and NAME.pub.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["ed25519", "ecdsa"]),
    default="ed25519",
    show_default=True,
    help="ecdsa is on P-256, for whoever must have it.",
)
def init(directory: Path, name: str, kind: Any) -> None:
    """Make a key pair; an existing key is never overwritten."""
    from guardrail.evidence.keys import key_pairs

    pair = key_pairs.init(directory, name, kind)
    say(f"private key  {pair.private}   (mode 0600: keep it secret, never commit it)")
    say(f"public key   {pair.public}   (give it to whoever verifies)")
    say(f"key id       {pair.key_id}")


@command.command("show")
@click.argument("key", metavar="FILE|URI")
@click.option("--out", type=options.FILE, help="Write the public key here (PEM).")
def show(key: str, out: Path | None) -> None:
    """Show type and id of a key, in a file or in a service.

    A public or private key file, or awskms:, gcpkms:, azurekms:, hsm: or hv:. A service is asked for the public half;
    --out keeps it for signing and verifying. An existing file is not overwritten.
    """
    from guardrail.errors import InvalidInput
    from guardrail.evidence.keys.fetch_key import fetch_public
    from guardrail.evidence.keys.key_files import create
    from guardrail.evidence.keys.key_pairs import public_pem

    public = fetch_public(key, options.secret)
    if out is not None:
        try:
            create(out, public_pem(public).encode("ascii"), 0o644)
        except FileExistsError as error:
            raise InvalidInput(f"{out} is already there and is never overwritten") from error
    say(f"type    {public.scheme}")
    say(f"key id  {public.keyid}")
    if out is not None:
        say(f"public  {out}")
