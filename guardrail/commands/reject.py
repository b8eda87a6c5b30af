"""``guardrail reject``: a person's signed no to a candidate that waits."""

from __future__ import annotations

from guardrail.commands._voting import voting_command

TEXT = """Look at what waits for NAME@ALIAS, and sign a no.

Shows what `guardrail approve` shows. One no outweighs every yes, and is final for this evidence.
"""
command = voting_command("reject", TEXT, approved=False)
