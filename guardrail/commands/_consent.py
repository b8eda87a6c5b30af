"""Acts that are signed and cannot be taken back: a reason, and a question to whoever sits at a terminal.

Where nobody can be asked, nothing is done without ``--yes``: silence is no consent, and neither is a line in a pipe.
Not covered: what is shown before the question (each command's own).
"""

from __future__ import annotations

import click

from guardrail.commands._output import at_terminal, confirm
from guardrail.commands._trusting import reason
from guardrail.errors import AwaitingApproval, InvalidInput

REASON_TEXT = "Why; it is signed and kept for ever."
YES = click.option("--yes", is_flag=True, help="Do not ask. Needed where no terminal can be asked.")
REASON = click.option("--reason", required=True, callback=reason, help=REASON_TEXT)
REASON_OF_NEW = click.option("--reason", default=None, callback=reason, help=f"{REASON_TEXT} Every new order needs it.")


def require_consent(question: str, *, yes: bool) -> None:
    """Ask, after what follows has been shown; ``yes`` is the answer given beforehand.

    Raises:
        InvalidInput: no terminal can be asked, and there was no ``--yes``.
        AwaitingApproval: the answer was no.
    """
    if yes:
        return
    if not at_terminal():
        raise InvalidInput(
            "nothing was signed: there is no terminal to ask at",
            expected="--yes, or a person at a terminal",
            next_step="read what is shown above; if it is what you want, run the same command with --yes",
        )
    if not confirm(question):
        raise AwaitingApproval("nothing was signed; everything is as before")
