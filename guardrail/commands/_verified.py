"""What ``verify`` and ``pull`` share: the check itself, by keys or by a trust file, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.commands._output import emit, shout
from guardrail.commands._trusting import DANGER, TrustGiven, believed, load
from guardrail.errors import InvalidInput

if TYPE_CHECKING:
    from guardrail.registry.audit.verify_directory import DirectoryVerification
    from guardrail.registry.verify.verify import Verification


@dataclass(frozen=True)
class VerifyWanted:
    """What is to be verified, and by whom."""

    spec: str
    tracking_uri: str
    decider_keys: tuple[Path, ...]
    trust: TrustGiven
    base_sha256: str | None
    head: Path | None


def check(place: Path, wanted: VerifyWanted, now: datetime) -> Verification:
    """Download into the empty ``place`` and verify what came."""
    from guardrail.evidence.ledger.ledger_file import read_head
    from guardrail.registry.audit.verify_trusted import verify_trusted
    from guardrail.registry.read.reader import parse_spec
    from guardrail.registry.verify.verify import reader, verify_at

    spec, uri = parse_spec(wanted.spec), wanted.tracking_uri
    by = believed(wanted.decider_keys, load(wanted.trust, now))
    if wanted.head is not None and by.trust is None:
        raise InvalidInput("--head was given without --trust", expected="a trust file that names the server's key")
    if by.trust is not None:
        head = read_head(wanted.head) if wanted.head else None
        return verify_trusted(
            place, wanted.spec, tracking_uri=uri, trust=by.trust, now=now, base_digest=wanted.base_sha256, head=head
        )
    with reader(uri) as source:
        return verify_at(place, source, spec, by.keys, now, wanted.base_sha256).record


def check_directory(
    directory: Path,
    spec: str | None,
    decider_keys: tuple[Path, ...],
    trust: TrustGiven,
    base_sha256: str | None,
    now: datetime,
) -> DirectoryVerification:
    """Verify what lies in ``directory``, without any server."""
    from guardrail.registry.audit import verify_directory as offline
    from guardrail.registry.read.reader import parse_spec

    by = believed(decider_keys, load(trust, now))
    wanted = offline.Wanted(parse_spec(spec) if spec else None, base_sha256)
    return offline.verify_directory(directory, by.keys, by.trust, wanted, now)


def tell_directory(found: DirectoryVerification, output: str) -> None:
    """Print what was checked, what was not, and what should frighten."""
    lines = [
        *(f"ok  {entry.name:<9} {entry.why}" for entry in found.checks),
        f"{found.directory} holds exactly what was signed for {found.model}@{found.alias} ({found.policy})",
        f"NOT CHECKED {', '.join(found.not_checked)}: guardrail verify {found.model}@{found.alias} asks the server",
    ]
    emit(found, output, lines)
    _frighten(found, found.one_person_may_train_evaluate_and_approve, output)


def tell(found: Verification, output: str) -> None:
    """Print what was checked, and what should frighten."""
    from guardrail.registry.audit.verify_trusted import TrustedVerification

    lines = [
        *(f"ok  {entry.name:<9} {entry.why}" for entry in found.checks),
        f"{found.model} version {found.version} holds exactly what was signed ({found.policy})",
    ]
    emit(found, output, lines)
    alone = isinstance(found, TrustedVerification) and found.one_person_may_train_evaluate_and_approve
    _frighten(found, alone, output)


def _frighten(found: Verification | DirectoryVerification, alone: bool, output: str) -> None:
    from guardrail.policy.bases import NOT_PINNED

    if output == "text" and not found.base_pinned:
        shout(f"DANGER      {NOT_PINNED}", colour="red")
    if output == "text" and alone:
        shout(DANGER, colour="red")
