"""Options of commands that read a registry: by which keys or trust file, at which server. Imports click alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrail.commands._options import FILE, Renamed
from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    from guardrail.evidence.keys.key_pairs import PublicKey
    from guardrail.evidence.trust.trust_file import Trust
    from guardrail.registry.audit.ledger_reader import History
    from guardrail.registry.audit.version_report import Believed
    from guardrail.registry.gate.client import GateClient

F = TypeVar("F", bound=Callable[..., Any])
DANGER = "DANGER      ONE PERSON MAY TRAIN, EVALUATE AND APPROVE: nobody checks anybody"
LONGEST_REASON = 3000
TRUST, ROOT_KEYS, ROOT_THRESHOLD = "GUARDRAIL_TRUST", "GUARDRAIL_ROOT_KEYS", "GUARDRAIL_ROOT_THRESHOLD"
DECIDER_KEYS, SERVER_KEYS = "GUARDRAIL_DECIDER_KEYS", "GUARDRAIL_SERVER_PUBLIC_KEY"
"""The same names as the server's own settings (``gate/settings.py``)."""
DECIDER_KEY = click.option(
    "--decider-key",
    "decider_keys",
    cls=Renamed,
    former=("--key",),
    type=FILE,
    multiple=True,
    envvar=DECIDER_KEYS,
    show_envvar=True,
    help="Public key of whoever may promote, where no --trust is given. Repeat it.",
)
VOTED_DECIDER_KEY = click.option(
    "--decider-key",
    "decider_keys",
    type=FILE,
    multiple=True,
    envvar=DECIDER_KEYS,
    show_envvar=True,
    help="Public key of whoever may promote, where no --trust is given. Repeat it.",
)
"""Where ``--key`` is the private key that signs."""
SERVER_KEY = click.option(
    "--server-key",
    "server_keys",
    type=FILE,
    multiple=True,
    envvar=SERVER_KEYS,
    show_envvar=True,
    help="Public key of the server, to check its ledger. Repeat it.",
)
LEDGER_KEY = click.option(
    "--server-key",
    "server_keys",
    cls=Renamed,
    former=("--key",),
    type=FILE,
    multiple=True,
    required=True,
    envvar=SERVER_KEYS,
    show_envvar=True,
    help="Public key of the server. Repeat it.",
)
BASE_SHA256 = click.option(
    "--base-sha256", default=None, help="Digest of the base model that you will load the adapter on."
)
HEAD = click.option(
    "--head",
    type=FILE,
    default=None,
    help="The ledger's exported head. Without it, a missing end is not noticed.",
)


@dataclass(frozen=True)
class TrustGiven:
    """What was given on the command line about a trust file; without ``threshold`` all roots must have signed it."""

    file: Path | None
    roots: tuple[Path, ...]
    threshold: int | None


def trust_file(*, required: bool) -> Callable[[F], F]:
    """``--trust``; arrives as ``trust``."""
    return click.option(
        "--trust",
        type=FILE,
        default=None,
        required=required,
        envvar=TRUST,
        show_envvar=True,
        help="The signed trust file that says whose keys count.",
    )


def root_keys(*, required: bool) -> Callable[[F], F]:
    """``--root-key``; arrives as ``roots``."""
    return click.option(
        "--root-key",
        "roots",
        cls=Renamed,
        former=("--root",),
        type=FILE,
        multiple=True,
        required=required,
        envvar=ROOT_KEYS,
        show_envvar=True,
        help="Public key of a root that may sign the trust file. Repeat it.",
    )


def root_threshold(*, required: bool) -> Callable[[F], F]:
    """``--root-threshold``; arrives as ``root_threshold``."""
    return click.option(
        "--root-threshold",
        cls=Renamed,
        former=("--threshold",),
        type=click.IntRange(min=1),
        required=required,
        show_default="all of them",
        envvar=ROOT_THRESHOLD,
        show_envvar=True,
        help="How many of these roots must have signed the trust file.",
    )


def trust_options(command: F) -> F:
    """``--trust``, ``--root-key`` and ``--root-threshold``: how every command is told whom to believe."""
    for option in (root_threshold(required=False), root_keys(required=False), trust_file(required=False)):
        command = option(command)
    return command


def load(given: TrustGiven, now: datetime) -> Trust | None:
    """The trust file, checked; None where none was given.

    Raises:
        InvalidInput: a file without root keys, or the other way round.
        EvidenceInvalid: it does not hold.
    """
    from guardrail.evidence.keys.key_pairs import load_public
    from guardrail.evidence.trust.trust_file import load_trust

    if given.file is None:
        if given.roots:
            raise InvalidInput(f"--root-key (or {ROOT_KEYS}) was given without --trust", expected="both, or neither")
        return None
    if not given.roots:
        raise InvalidInput(
            f"--trust (or {TRUST}) was given without --root-key", expected="the public keys of who may sign it"
        )
    roots = [load_public(path) for path in given.roots]
    threshold = given.threshold or len({root.keyid for root in roots})
    return load_trust(read_envelope(given.file), roots=roots, threshold=threshold, now=now)


def believed(decider_keys: tuple[Path, ...], trust: Trust | None) -> Believed:
    """Whose signatures count: the keys given, or those that the trust file lets decide.

    Raises:
        InvalidInput: neither was given, or both.
    """
    from guardrail.registry.audit.version_report import Believed

    if (trust is None) == (not decider_keys):
        raise InvalidInput(
            "neither --trust nor --decider-key was given"
            if trust is None
            else "--trust and --decider-key were both given",
            expected="one of them: --trust FILE --root-key KEY, or --decider-key KEY",
            next_step=f"set what is missing, or unset one: {TRUST} and {DECIDER_KEYS} count as given",
        )
    return Believed(trust.keys_of("decide") if trust else public_keys(decider_keys), trust)


def public_keys(files: tuple[Path, ...]) -> tuple[PublicKey, ...]:
    """Public keys from files."""
    from guardrail.evidence.keys.key_pairs import load_public

    return tuple(load_public(path) for path in files)


def history(
    gate: GateClient,
    trust: Trust | None,
    server_keys: tuple[Path, ...],
    head: Path | None,
    now: datetime,
    *,
    whole: bool = False,
) -> History:
    """The server's ledger: checked where keys were given for it, else as it is told; ``whole``: from its first entry.

    Raises:
        InvalidInput: a head, but no key.
        EvidenceInvalid: it does not hold.
    """
    from guardrail.evidence.ledger.ledger_file import read_head
    from guardrail.registry.audit.ledger_reader import read_history, unverified_history

    keys = (*public_keys(server_keys), *(trust.keys_of("server") if trust else ()))
    if keys:
        return read_history(gate, keys, now=now, head=read_head(head) if head else None, whole=whole)
    if head is not None:
        raise InvalidInput("--head was given without a key", expected="--server-key or --trust")
    return unverified_history(gate, whole=whole)


def read_envelope(path: Path) -> bytes:
    """No more than an envelope may hold, and one byte, so that more is refused and not read."""
    from guardrail.evidence.envelope import LARGEST

    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read the signed file {path}: {error.strerror}") from error


def reason(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A reason that shows something and fits into a statement."""
    del ctx
    if value is not None and not any(char.isprintable() and not char.isspace() for char in value):
        raise click.BadParameter("it says nothing", param=param)
    if value is not None and len(value) > LONGEST_REASON:
        raise click.BadParameter(f"at most {LONGEST_REASON} characters fit", param=param)
    return value
