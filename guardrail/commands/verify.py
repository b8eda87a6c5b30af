"""``guardrail verify``: does the registry hold what was signed? Needs the public key only."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("spec", metavar="NAME/VERSION|NAME@ALIAS")
@click.option(
    "--key",
    "key_files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="Public key of whoever may promote (may be repeated).",
)
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="The MLflow server or store.",
)
@click.option("--base-sha256", default=None, help="Digest of the base model that you will load the adapter on.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(spec: str, key_files: tuple[Path, ...], tracking_uri: str, base_sha256: str | None, output: str) -> None:
    """Download a registered adapter and check it against its signed evidence."""
    from datetime import UTC, datetime

    from guardrail.evidence.digest import canonical
    from guardrail.evidence.keys import load_public
    from guardrail.registry.verify import verify

    found = verify(
        spec,
        tracking_uri=tracking_uri,
        public_keys=[load_public(path) for path in key_files],
        now=datetime.now(UTC),
        base_digest=base_sha256,
    )
    if output == "json":
        click.echo(canonical(found).decode())
        return
    for check in found.checks:
        click.echo(f"ok  {check.name:<9} {check.why}")
    click.echo(f"{found.model} version {found.version} holds exactly what was signed ({found.policy})")
