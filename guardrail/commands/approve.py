"""``guardrail approve``: a person's signed yes to a candidate that waits."""

from __future__ import annotations

from guardrail.commands._voting import voting_command

TEXT = """Look at what waits for NAME@ALIAS, and sign a yes.

Downloads what the server sealed, checks it and decides again before it asks. The last approval that was missing
promotes the candidate.
"""
command = voting_command("approve", TEXT, approved=True)
