"""``guardrail registry``: what a gated server holds, what happened there, and orders against the normal course."""

from __future__ import annotations

from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.commands._output import emit
from guardrail.commands._registry_orders import revoke, rollback


@click.group("registry")
def command() -> None:
    """Ask a gated server what it holds, and give it orders.

    What happened there, and what waits; an alias back, or an adapter out.
    """


command.add_command(rollback)
command.add_command(revoke)


@command.command("list")
@trusting.trust_options
@trusting.SERVER_KEY
@options.TRACKING_URI
@options.OUTPUT
@click.option("--revoked", "only_revoked", is_flag=True, help="Every version of a revoked adapter instead.")
def list_(
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    server_keys: tuple[Path, ...],
    tracking_uri: str,
    output: str,
    only_revoked: bool,
) -> None:
    """Show where every guarded alias stands, and what waits.

    Version, verdict, how long it is valid, and whether all is well. A look at tags and ledger; no file is read.
    `guardrail verify` proves a version. With --revoked: what the ledger says was revoked, when, by whom and why, and
    under which version numbers it stood.
    """
    from datetime import UTC, datetime

    from guardrail.commands._registry_text import listing_lines, revoked_lines
    from guardrail.registry.audit.alias_table import listing
    from guardrail.registry.audit.revoked_adapters import revoked
    from guardrail.registry.gate.client import GateClient
    from guardrail.registry.read.rest_reader import RestReader

    now, gate = datetime.now(UTC), GateClient(tracking_uri)
    trusted = trusting.load(trusting.TrustGiven(trust, roots, root_threshold), now)
    history = trusting.history(gate, trusted, server_keys, None, now)
    if only_revoked:
        emit(out := revoked(history), output, revoked_lines(out))
        return
    found = listing(RestReader(tracking_uri), history, trusted, gate.waiting(), now)
    emit(found, output, listing_lines(found))


@command.command("waiting")
@click.argument("name", required=False)
@options.TRACKING_URI
@options.OUTPUT
def waiting(name: str | None, tracking_uri: str, output: str) -> None:
    """List what waits for persons to approve, and for how long.

    Of the model NAME, or of all. The server's own word: `guardrail approve` checks what it says before anybody signs.
    """
    from datetime import UTC, datetime

    from guardrail.commands._registry_text import waiting_lines
    from guardrail.registry.audit.waiting_list import waiting_list
    from guardrail.registry.gate.client import GateClient

    waits = GateClient(tracking_uri).waiting(name or "")
    found = waiting_list((one for one in waits if name in (None, one.model)), tracking_uri, datetime.now(UTC))
    emit(found, output, waiting_lines(found))


@command.command("show")
@click.argument("spec", metavar="NAME/VERSION|NAME@ALIAS")
@trusting.DECIDER_KEY
@trusting.trust_options
@options.TRACKING_URI
@options.OUTPUT
def show(
    spec: str,
    decider_keys: tuple[Path, ...],
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    tracking_uri: str,
    output: str,
) -> None:
    """Show everything that is known of one version.

    Measurements, rules, who signed, who agreed, which attempt. Its evidence must hold together and be signed by
    --decider-key or by whoever --trust lets decide. An expired or revoked version is shown as well, and said to be.
    """
    from datetime import UTC, datetime

    from guardrail.commands._registry_text import account_lines
    from guardrail.registry.audit.version_report import account
    from guardrail.registry.read.reader import parse_spec

    now = datetime.now(UTC)
    trusted = trusting.load(trusting.TrustGiven(trust, roots, root_threshold), now)
    by = trusting.believed(decider_keys, trusted)
    found = account(parse_spec(spec), tracking_uri=tracking_uri, believed=by, now=now)
    emit(found, output, account_lines(found))


@command.command("history")
@click.argument("name")
@trusting.trust_options
@trusting.SERVER_KEY
@trusting.HEAD
@options.TRACKING_URI
@options.OUTPUT
def history_(
    name: str,
    trust: Path | None,
    roots: tuple[Path, ...],
    root_threshold: int | None,
    server_keys: tuple[Path, ...],
    head: Path | None,
    tracking_uri: str,
    output: str,
) -> None:
    """Show what happened to the model NAME: when, what, by whom.

    As the server's ledger says. With --server-key (or --trust) the whole ledger is checked first.
    """
    from datetime import UTC, datetime

    from guardrail.commands._registry_text import events_lines
    from guardrail.registry.audit.model_history import events
    from guardrail.registry.gate.client import GateClient
    from guardrail.registry.read.rest_reader import RestReader

    now = datetime.now(UTC)
    gate = GateClient(tracking_uri)
    trusted = trusting.load(trusting.TrustGiven(trust, roots, root_threshold), now)
    history = trusting.history(gate, trusted, server_keys, head, now, whole=True)
    found = events(name, gate, RestReader(tracking_uri), history, trusted)
    emit(found, output, events_lines(found))


@command.command("doctor")
@options.TRACKING_URI
@options.OUTPUT
def doctor(tracking_uri: str, output: str) -> None:
    """Have the server compare models, ledger and sealed files.

    Exits with 11 if they differ.
    """
    from guardrail.commands._registry_text import health_lines
    from guardrail.errors import EvidenceInvalid
    from guardrail.registry.gate.client import GateClient

    found = GateClient(tracking_uri).health()
    emit(found, output, health_lines(found))
    if found.problems:
        raise EvidenceInvalid(f"the server found {len(found.problems)} problems", expected="none")
