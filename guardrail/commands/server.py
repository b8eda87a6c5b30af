"""``guardrail server``: an MLflow server that itself refuses what is not proven."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting


@click.command("server")
@trusting.trust_file(required=True)
@trusting.root_keys(required=True)
@trusting.root_threshold(required=False)
@click.option(
    "--backend-store-uri", required=True, help="The database: sqlite:///FILE, postgresql://… or mysql+pymysql://…"
)
@click.option(
    "--artifacts-destination", required=True, help="Where all artifacts lie: a directory, or s3://BUCKET/PREFIX."
)
@click.option(
    "--key",
    metavar="FILE|URI",
    default=".guardrail/keys/guardrail.key",
    show_default=True,
    envvar="GUARDRAIL_SERVER_KEY",
    show_envvar=True,
    help="Private key that signs the ledger: a file, or awskms: etc.",
)
@click.option(
    "--public-key",
    type=options.FILE,
    default=None,
    envvar=trusting.SERVER_KEYS,
    show_envvar=True,
    help="Public key of a --key that stays in a service (guardrail keys show URI --out FILE).",
)
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    envvar="GUARDRAIL_LEDGER",
    show_envvar=True,
    help="The file of the ledger, on a local disk that clients cannot reach.",
)
@click.option(
    "--ledger-head",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    envvar="GUARDRAIL_LEDGER_HEAD",
    show_envvar=True,
    help="Where the ledger's head is exported at every entry, best on another machine's disk.  [default: LEDGER.head]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="The port to listen on.")
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True, help="Processes that serve.")
@click.option(
    "--app-name",
    type=click.Choice(["plain", "basic-auth"]),
    default="plain",
    show_default=True,
    help="With or without MLflow's users and permissions.",
)
@click.option(
    "--gunicorn",
    is_flag=True,
    help=(
        "Serve with gunicorn instead of uvicorn: 32 requests a worker at once, so 32 slow clients for each worker stop "
        "it (uvicorn waits for any number), and refusals are not paced."
    ),
)
@click.option("--allowed-hosts", default=None, help="Host names that clients may use (as `mlflow server`).")
def command(
    trust: Path,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    backend_store_uri: str,
    artifacts_destination: str,
    key: str,
    public_key: Path | None,
    ledger: Path,
    ledger_head: Path | None,
    host: str,
    port: int,
    workers: int,
    app_name: str,
    gunicorn: bool,
    allowed_hosts: str | None,
) -> None:
    """Start an MLflow server that refuses what is not proven.

    Its registry does so whoever asks. Models that the trust file names are guarded; all others behave as in stock
    MLflow. Does not start without a valid trust file.
    """
    from guardrail.gate.app.launch import Launch, start

    code = start(
        Launch(
            trust=trust,
            root_keys=roots,
            root_threshold=root_threshold,
            backend_store_uri=backend_store_uri,
            artifacts_destination=artifacts_destination,
            key=key,
            public_key=public_key,
            ledger=ledger,
            ledger_head=ledger_head or ledger.with_name(f"{ledger.name}.head"),
            host=host,
            port=port,
            workers=workers,
            auth=app_name,
            gunicorn=gunicorn,
            allowed_hosts=allowed_hosts,
        )
    )
    click.get_current_context().exit(code)
