"""Options of commands that read a registry: by which keys or trust file, at which server. Imports click alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardrail.commands._options import FILE
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
VERIFYING_KEY = click.option(
    "--key", "key_files", type=FILE, multiple=True, help="Public key of whoever may promote (may be repeated)."
)
SERVER_KEY = click.option(
    "--server-key",
    "server_keys",
    type=FILE,
    multiple=True,
    help="Public key of the server, to check its ledger. Repeat it.",
)
BASE_SHA256 = click.option(
    "--base-sha256", default=None, help="Digest of the base model that you will load the adapter on."
)
HEAD = click.option(
    "--head", type=FILE, default=None,
    help="The ledger's exported head. Without it, a missing end is not noticed.",
)  # fmt: skip


@dataclass(frozen=True)
class TrustGiven:
    """What was given on the command line about a trust file; without ``threshold`` all roots must have signed it."""

    file: Path | None
    roots: tuple[Path, ...]
    threshold: int | None


def trust_options(command: F) -> F:
    """``--trust``, ``--root`` and ``--root-threshold``; arrive as ``trust``, ``roots`` and ``root_threshold``."""
    for option in (
        click.option(
            "--root-threshold", type=click.IntRange(min=1), show_default="all of them",
            help="How many of these roots must have signed the trust file.",
        ),
        click.option("--root", "roots", type=FILE, multiple=True, help="A root's public key, for --trust. Repeat it."),
        click.option("--trust", type=FILE, default=None, help="The signed trust file that says whose keys count."),
    ):  # fmt: skip
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
            raise InvalidInput("--root was given without --trust", expected="both, or neither")
        return None
    if not given.roots:
        raise InvalidInput("--trust was given without --root", expected="the public keys of who may sign it")
    roots = [load_public(path) for path in given.roots]
    threshold = given.threshold or len({root.keyid for root in roots})
    return load_trust(read_envelope(given.file), roots=roots, threshold=threshold, now=now)


def believed(key_files: tuple[Path, ...], trust: Trust | None, option: str = "--key") -> Believed:
    """Whose signatures count: the keys given, or those that the trust file lets decide.

    Raises:
        InvalidInput: neither was given, or both.
    """
    from guardrail.registry.audit.version_report import Believed

    if (trust is None) == (not key_files):
        raise InvalidInput(
            f"neither --trust nor {option} was given" if trust is None else f"--trust and {option} were both given",
            expected=f"one of them: --trust FILE --root KEY, or {option} KEY",
        )
    return Believed(trust.keys_of("decide") if trust else public_keys(key_files), trust)


def public_keys(files: tuple[Path, ...]) -> tuple[PublicKey, ...]:
    """Public keys from files."""
    from guardrail.evidence.keys.key_pairs import load_public

    return tuple(load_public(path) for path in files)


def history(
    gate: GateClient, trust: Trust | None, server_keys: tuple[Path, ...], head: Path | None, now: datetime, *,
    whole: bool = False,
) -> History:  # fmt: skip
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
