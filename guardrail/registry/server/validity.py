"""Whether what a protected alias points at may still be handed out: its evidence has not expired, nobody revoked it,
and the trust file still pins its policy and its base.

Asked at every resolution, so it reads what the database holds: the tags that the server itself wrote. Whoever writes
to the database directly can change them; `guardrail pull` and `verify` believe none of it.
Not covered: versions asked for by number, files asked for by their digest, and whether a pinned policy promises what
the trust file has come to ask since (its text is in the files; `verify --trust` and `pull` read them).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from guardrail import logs
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust import GuardedModel, ProtectedAlias
from guardrail.registry.server.admission import require_not_revoked
from guardrail.registry.server.state import State
from guardrail.registry.tags import PREFIX

_logger = logs.logger("guardrail.server")


def require_valid(
    version: Any, guarded: GuardedModel, protected: ProtectedAlias, state: State, now: datetime
) -> None:  # fmt: skip
    """Refuse, or warn in the server's log, as the trust file says for this alias.

    Raises:
        EvidenceInvalid: expired, revoked, without evidence, or of a policy or base that is not pinned any more, where
            the alias says ``refuse``.
    """
    try:
        _check(version.tags, protected.alias, state, now)
        _require_pinned(version.tags, guarded, protected)
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


def _require_pinned(tags: dict[str, str], guarded: GuardedModel, protected: ProtectedAlias) -> None:
    for what, found, pinned in (
        ("policy", tags.get(f"{PREFIX}policy_sha256"), (protected.policy,)),
        ("base", tags.get(f"{PREFIX}base_sha256"), guarded.bases),
    ):
        if pinned and found not in pinned:
            raise EvidenceInvalid(
                f"the evidence behind the alias {protected.alias!r} is for the {what} {found}",
                expected=f"what the trust file pins: {', '.join(pinned)}",
                next_step=f"promote an adapter that was proven with this {what}",
            )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise EvidenceInvalid(f"the version's tag valid_until is {text!r}", expected="a time") from error
