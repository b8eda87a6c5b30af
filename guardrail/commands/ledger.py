"""``guardrail ledger``: was anything in a ledger changed, removed, inserted or cut off?"""

from __future__ import annotations

import re
from pathlib import Path

import click

from guardrail.commands import _options as options
from guardrail.commands import _trusting as trusting
from guardrail.commands._output import emit, say, say_file


@click.group("ledger")
def command() -> None:
    """Check the ledger of everything that was ever decided.

    It names what was proposed, decided, approved, moved and revoked.
    """


@command.command("verify")
@click.argument("file", type=options.FILE)
@trusting.LEDGER_KEY
@trusting.HEAD
@click.option("--write-head", type=options.FILE, default=None, help="Write the head of what was verified here.")
@options.OUTPUT
def verify(file: Path, server_keys: tuple[Path, ...], head: Path | None, write_head: Path | None, output: str) -> None:
    """Check every signature and every link of FILE.

    Every entry must follow from the one before. Finds edits, deletions, insertions, moves, foreign signers, clocks that
    went back, checkpoints that are not what the entries before them add up to and, with --head, a missing end. Exits
    with 11 and names the first entry that is wrong.
    """
    import os
    from datetime import UTC, datetime

    from guardrail.atomic import write_atomically
    from guardrail.evidence.digest import canonical
    from guardrail.evidence.keys.key_pairs import load_public
    from guardrail.evidence.ledger import signed_ledger
    from guardrail.evidence.ledger.ledger_file import envelopes, read_head

    found = signed_ledger.verify(
        envelopes(file),
        [load_public(path) for path in server_keys],
        read_head(head) if head else None,
        now=datetime.now(UTC),
        workers=min(4, os.cpu_count() or 1),
    )
    if write_head is not None and found.head is not None:
        write_atomically(write_head, canonical(found.head))
    lines = [
        f"{found.entries} entries, each signed and following from the one before",
        *(
            f"note  entry {jump.number} is {jump.seconds:.3f} s older than one before it: the clock stepped back"
            for jump in found.jumps
        ),
        *(
            [
                f"{found.checkpoints} checkpoint{'s' * (found.checkpoints != 1)}, "
                "each what the entries before it add up to"
            ]
            if found.checkpoints
            else []
        ),
        *([f"head  entry {found.head.number}, {found.head.digest}"] if found.head else []),
        "the exported head is reached" if head else "no --head was given: whether the end is missing is not known",
    ]
    emit(found, output, lines)


@command.command("fetch")
@options.TRACKING_URI
@click.option("--out", type=options.FILE, required=True, help="Where it goes; replaced if it is there.")
def fetch(tracking_uri: str, out: Path) -> None:
    """Copy a gated server's ledger to a file. Nothing is checked: `guardrail ledger verify` does that."""
    from guardrail.atomic import write_atomically
    from guardrail.registry.audit.ledger_reader import ledger_lines
    from guardrail.registry.gate.client import GateClient

    data = ledger_lines(GateClient(tracking_uri).ledger(progress=_progress))
    write_atomically(out, data)
    count = data.count(b"\n")
    say(f"written     {out}, {count} entries, NOT CHECKED: guardrail ledger verify {out} --server-key SERVER.pub")


@command.command("statement")
@click.argument("digest", metavar="SHA256")
@options.TRACKING_URI
@click.option("--out", type=options.FILE, default=None, help="Write the envelope here instead of printing it.")
def statement(digest: str, tracking_uri: str, out: Path | None) -> None:
    """Fetch a signed statement that the ledger names.

    A vote, an order, a ticket's request, a training statement, a denial or a trust file, exactly as it was handed in:
    its SHA-256 is compared with the one given (`guardrail registry history` shows them). Its signatures are NOT
    checked; docs/auditing.md shows how.
    """
    from guardrail.atomic import write_atomically
    from guardrail.errors import InvalidInput
    from guardrail.registry.audit.ledger_reader import handed_in
    from guardrail.registry.gate.client import GateClient

    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise InvalidInput(f"{digest!r} is no SHA-256", expected="64 digits and letters a to f, as the ledger names it")
    data = handed_in(GateClient(tracking_uri), digest)
    if out is None:
        say_file(data + b"\n")
        return
    write_atomically(out, data)
    say(f"written     {out}, signatures NOT CHECKED")


def _progress(entries: int) -> None:
    """A ledger of more than one page is seen to come."""
    from guardrail.registry.gate.protocol import PAGE

    if entries > PAGE:
        say(f"fetched     {entries} entries so far", err=True)
