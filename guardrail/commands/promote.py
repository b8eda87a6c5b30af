"""``guardrail promote``: decide under the policy, sign, and register only what passed."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("promote")
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".guardrail/keys/guardrail.key"),
    show_default=True,
    help="Private key to sign the decision with (`guardrail keys init`).",
)
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="The MLflow server or store.",
)
def command(run_dir: Path, key: Path, tracking_uri: str) -> None:
    """Decide on a run directory, sign the decision and record it in MLflow."""
    from guardrail import pipeline

    pipeline.promote_run(run_dir, tracking_uri=tracking_uri, key=key)
