"""Whether what a protected alias points at may still be handed out: its evidence has not expired, nobody revoked it.

Asked at every resolution, so it reads what the database holds: the tags that the server itself wrote. Whoever writes
to the database directly can change them; `guardrail pull` and `verify` believe none of it.
Not covered: versions asked for by number, and files asked for by their digest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from guardrail import logs
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust import ProtectedAlias
from guardrail.registry.server.admission import require_not_revoked
from guardrail.registry.server.state import State
from guardrail.registry.tags import PREFIX

_logger = logs.logger("guardrail.server")


def require_valid(version: Any, protected: ProtectedAlias, state: State, now: datetime) -> None:
    """Refuse, or warn in the server's log, as the trust file says for this alias.

    Raises:
        EvidenceInvalid: expired, revoked, or without evidence, where the alias says ``refuse``.
    """
    try:
        _check(version.tags, protected.alias, state, now)
    except EvidenceInvalid as error:
        if protected.when_invalid == "refuse":
            raise
        _logger.warning("%s@%s version %s: %s", version.name, protected.alias, version.version, error.got)


def _check(tags: dict[str, str], alias: str, state: State, now: datetime) -> None:
    manifest, until = tags.get(f"{PREFIX}adapter_sha256"), tags.get(f"{PREFIX}valid_until")
    if manifest is None or until is None:
        raise EvidenceInvalid(
            f"the alias {alias!r} points at a version without evidence", next_step="promote an adapter to it"
        )
    require_not_revoked(manifest, state)
    if not now <= _time(until):
        raise EvidenceInvalid(
            f"the evidence behind the alias {alias!r} expired at {until}", expected=f"evidence that is valid at {now}",
            next_step="evaluate and promote the adapter again",
        )  # fmt: skip


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise EvidenceInvalid(f"the version's tag valid_until is {text!r}", expected="a time") from error
