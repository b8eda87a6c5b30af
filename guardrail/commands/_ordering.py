"""What ``registry rollback`` and ``registry revoke`` share: signing an order, alone or with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrail.commands import _options as options
from guardrail.commands import _orders_text as text
from guardrail.commands import _trusting as trusting
from guardrail.commands._consent import REASON_OF_NEW, YES, require_consent
from guardrail.commands._output import emit, say
from guardrail.errors import GuardrailError, InvalidInput

if TYPE_CHECKING:
    from guardrail.evidence.statements.orders import Order

F = TypeVar("F", bound=Callable[..., Any])
VALID_HOURS = click.option(
    "--valid-hours",
    type=click.IntRange(min=1, max=24 * 30),
    default=1,
    show_default=True,
    help="How long the order may be handed in.",
)


def signing_options(command: F) -> F:
    """Who signs, and where the order goes."""
    shared = (
        REASON_OF_NEW,
        options.KEY,
        options.PUBLIC_KEY,
        VALID_HOURS,
        click.option(
            "--out",
            type=options.FILE,
            default=None,
            help="Write the order here for others to sign, and hand nothing in.",
        ),
        click.option(
            "--add-signature",
            "signed",
            type=options.FILE,
            default=None,
            metavar="FILE",
            help="Sign an order that somebody wrote, and hand it in (or write it to --out).",
        ),
        options.TRACKING_URI,
        YES,
        options.OUTPUT,
    )
    for option in reversed(shared):
        command = option(command)
    return command


@dataclass(frozen=True)
class Signing:
    """Who signs, and where the order goes."""

    key: str
    public_key: Path | None
    out: Path | None
    signed: Path | None
    tracking_uri: str
    yes: bool
    output: str


def give(signing: Signing, kind: type[Any], new: Callable[[], Order]) -> None:
    """Sign an order of this kind, new or somebody else's, and hand it in or write it.

    Raises:
        InvalidInput: somebody else's is of another kind; or nobody can be asked, and there is no ``--yes``.
        AwaitingApproval: whoever was asked said no.
    """
    from guardrail.evidence.envelope import add_signature, sign, unverified_payload
    from guardrail.evidence.statements import orders

    signer = options.signer(signing.key, signing.public_key)
    if signing.signed is not None:
        data = trusting.read_envelope(signing.signed)
        order = orders.parse(unverified_payload(data))
        if not isinstance(order, kind):
            raise InvalidInput(f"{signing.signed} is no order of this kind", expected=f"a {kind.__name__.lower()}")
        _agree(order, signing)
        envelope = add_signature(data, signer)
    else:
        order = new()
        _agree(order, signing)
        envelope = sign(orders.build(order), signer)
    _hand_in(envelope, signing)


def lasts(hours: int) -> timedelta:
    """How long an order may be handed in."""
    return timedelta(hours=hours)


def _agree(order: Order, signing: Signing) -> None:
    """Everyone who signs is shown what they sign and what follows, and is asked."""
    from guardrail.evidence.statements.orders import Rollback

    moves = isinstance(order, Rollback)
    follows = text.rollback_follows(order) if isinstance(order, Rollback) else _taken(order.manifest, signing)
    say(*text.order_lines(order, follows), err=signing.output == "json")
    require_consent("Move it back?" if moves else "Take it out for good?", yes=signing.yes)


def _taken(manifest: str, signing: Signing) -> list[str]:
    """What the server's ledger says; that it cannot be read must not stop who takes an adapter out."""
    from guardrail.registry.audit.ledger_reader import unverified_history
    from guardrail.registry.gate.client import GateClient
    from guardrail.registry.orders.what_follows import affected

    try:
        return text.revocation_follows(affected(manifest, unverified_history(GateClient(signing.tracking_uri))))
    except GuardrailError as error:
        return text.unknown_follows(error.got)


def _hand_in(envelope: bytes, signing: Signing) -> None:
    from guardrail.atomic import write_atomically
    from guardrail.evidence.envelope import signers
    from guardrail.registry.gate.client import GateClient

    if signing.out is not None:
        write_atomically(signing.out, envelope)
        count = len(signers(envelope))
        said = f"written     {signing.out}, {count} signatures; nothing was handed in"
        say(said, err=signing.output == "json")
        return
    found = GateClient(signing.tracking_uri).submit(envelope)
    where = f"{found.model}@{found.alias} points at version {found.version} now" if found.version else "carried out"
    emit(found, signing.output, [f"{found.state:<12}{where} (entry {found.entry.number} of the ledger)"])
