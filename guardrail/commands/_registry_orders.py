"""``guardrail registry rollback`` and ``revoke``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from guardrail.commands import _ordering as ordering
from guardrail.errors import InvalidInput


@click.command("rollback")
@click.argument("spec", metavar="[NAME@ALIAS]", required=False)
@click.option("--to", "to_version", type=click.IntRange(min=1), default=None, help="The version to go back to.")
@ordering.signing_options
def rollback(
    spec: str | None,
    to_version: int | None,
    reason: str | None,
    key: str,
    public_key: Path | None,
    valid_hours: int,
    out: Path | None,
    signed: Path | None,
    tracking_uri: str,
    yes: bool,
    output: str,
) -> None:
    """Order that NAME@ALIAS goes back to an earlier version.

    Shows what follows, asks, and hands the order in. The order holds for where the alias points now and for no other
    situation. Where several persons must sign: --out writes it, --add-signature signs it once more.
    """
    from guardrail.evidence.statements.orders import Order, Rollback

    signing = ordering.Signing(key, public_key, out, signed, tracking_uri, yes, output)
    _one_way(signed, spec, to_version, reason)

    def new() -> Order:
        from guardrail.registry.orders.write_order import rollback as write
        from guardrail.registry.read.reader import parse_spec
        from guardrail.registry.read.rest_reader import RestReader

        return write(
            tracking_uri,
            RestReader(tracking_uri),
            parse_spec(spec or ""),
            str(to_version),
            reason=reason or "",
            now=datetime.now(UTC),
            lasts=ordering.lasts(valid_hours),
        )

    ordering.give(signing, Rollback, new)


@click.command("revoke")
@click.argument("what", metavar="[DIGEST|NAME/VERSION|NAME@ALIAS]", required=False)
@ordering.signing_options
def revoke(
    what: str | None,
    reason: str | None,
    key: str,
    public_key: Path | None,
    valid_hours: int,
    out: Path | None,
    signed: Path | None,
    tracking_uri: str,
    yes: bool,
    output: str,
) -> None:
    """Order that an adapter is out, for good.

    It is never admitted and never resolved again, under any name. Shows which versions and aliases stop resolving, and
    asks. DIGEST is that of the adapter's manifest (`guardrail registry show` prints it). Where several persons must
    sign: --out writes the order, --add-signature signs it once more.
    """
    from guardrail.evidence.statements.orders import Order, Revocation

    signing = ordering.Signing(key, public_key, out, signed, tracking_uri, yes, output)
    _one_way(signed, what, reason)

    def new() -> Order:
        from guardrail.registry.orders.write_order import revocation
        from guardrail.registry.read.rest_reader import RestReader

        now, lasts = datetime.now(UTC), ordering.lasts(valid_hours)
        return revocation(tracking_uri, RestReader(tracking_uri), what or "", reason=reason or "", now=now, lasts=lasts)

    ordering.give(signing, Revocation, new)


def _one_way(signed: Path | None, *new: object) -> None:
    """A new order is written from all of these, an order that somebody wrote says them itself."""
    given = [value is not None for value in new]
    if signed is None and not all(given):
        raise InvalidInput("the order is incomplete", expected="what it is about and --reason (a rollback: --to too)")
    if signed is not None and any(given):
        raise InvalidInput("--add-signature signs an order as it is", expected="no other word about what it says")
