"""Is everything as the ledger says? Every version of a guarded model has its evidence, every alias its promotion.

Reads all sealed bytes of versions and of what waits. What it finds is finished by asking again (a crash came between
two steps), or only a hand in the database or on the disk can have done it, or the storage does not answer.
Not covered: mending; unguarded models; what was rejected, whose files nobody is given any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardrail.errors import AwaitingApproval, EvidenceInvalid, GuardrailError, PolicyDenied
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import file_sha256
from guardrail.evidence.trust import GuardedModel
from guardrail.registry.server.admission import Court, admit
from guardrail.registry.server.recording import Kept
from guardrail.registry.server.registrar import Registrar
from guardrail.registry.server.sealed import sealed_digest
from guardrail.registry.server.state import Admitted, State
from guardrail.registry.tags import EVIDENCE as EVIDENCE_TAG
from guardrail.registry.wire import Health, Problem

AGAIN = "guardrail promote again, from the same run"

AT_THE_NEXT_ENTRY = "the next entry finishes the line that a crash cut off"


def examine_all(registrar: Registrar) -> Health:
    """Look at every guarded model, every sealed adapter behind a version or waiting for one, and the whole ledger."""
    found: list[Problem] = []
    try:
        entries = registrar.journal.recheck()
    except GuardrailError as error:
        entries = 0
        finish = AT_THE_NEXT_ENTRY if registrar.journal.unfinished() else ""
        found.append(Problem(where="ledger", what=error.message(), finish=finish))
    court = registrar.court()
    counted = 0
    for guarded in court.trust.models:
        versions = registrar.beneath.versions(guarded.name)
        counted += len(versions)
        numbers = {str(one.tags.get(EVIDENCE_TAG)): int(one.version) for one in versions}
        for one in versions:
            found.extend(_version(registrar, court.state, one))
        found.extend(_aliases(registrar, court.state, guarded))
        found.extend(_unfinished(registrar, court, guarded, numbers))
    return Health(
        models=len(court.trust.models), versions=counted, entries=entries, head=registrar.journal.head(),
        problems=tuple(found),
    )  # fmt: skip


def _version(registrar: Registrar, state: State, version: Any) -> Iterator[Problem]:
    """The files are those that were sealed, and the ledger admitted exactly this evidence."""
    where = f"{version.name}/{version.version}"
    try:
        with registrar.sealing().verified(sealed_digest(str(version.source))) as place:
            evidence = file_sha256(place / EVIDENCE / ENVELOPE)
    except (GuardrailError, OSError) as error:
        yield Problem(where=where, what=str(error))
        return
    if evidence not in state.admitted:
        yield Problem(where=where, what="the ledger never admitted its evidence")
    if version.tags.get(EVIDENCE_TAG) != evidence:
        yield Problem(where=where, what=f"its tag {EVIDENCE_TAG} names other evidence than its files hold")


def _aliases(registrar: Registrar, state: State, guarded: GuardedModel) -> Iterator[Problem]:
    """A protected alias points where it was last moved to."""
    stored = registrar.beneath.aliases(guarded.name)
    for protected in guarded.aliases:
        where = f"{guarded.name}@{protected.alias}"
        points, stands = stored.get(protected.alias), state.stands.get((guarded.name, protected.alias))
        if points == stands:
            continue
        again = "" if stands is None else f"{AGAIN} (or hand the rollback in again)"
        yield Problem(where=where, what=f"it points at version {points}; the ledger moved it to {stands}", finish=again)


def _unfinished(
    registrar: Registrar, court: Court, guarded: GuardedModel, numbers: dict[str, int]
) -> Iterator[Problem]:  # fmt: skip
    """Evidence that was admitted and approved, but stands behind no version, or whose alias did not move there; and
    evidence that cannot be read.

    ``numbers`` maps evidence to its version; one that a later version has overtaken needs nothing more.
    """
    for one in court.state.waiting():
        number, highest = numbers.get(one.evidence), court.state.highest.get((one.model, one.alias), 0)
        overtaken = number is not None and number <= highest
        if one.model != guarded.name or overtaken:
            continue
        where = f"{one.model}, evidence {one.evidence}"
        try:
            complete = _is_complete(registrar, court, guarded, one)
        except (GuardrailError, OSError) as error:
            yield Problem(where=where, what=str(error))
            continue
        if complete:
            missing = "its alias did not move" if number is not None else "it has no version"
            yield Problem(where=where, what=f"admitted, but {missing}", finish=AGAIN)


def _is_complete(registrar: Registrar, court: Court, guarded: GuardedModel, found: Admitted) -> bool:
    """Whether nothing but a crash can have kept it from being promoted.

    Raises:
        EvidenceInvalid: its sealed files, or a vote about it, were changed.
        InvalidInput: a vote about it is gone.
        ServiceUnavailable: the storage does not answer.
    """
    votes = registrar.journal.votes(found.evidence)
    with registrar.sealing().verified(Kept.of(found).sealed) as place:
        try:
            admit(place, court, guarded, votes, found.alias).require_approved()
        except (AwaitingApproval, PolicyDenied, EvidenceInvalid):  # what was sealed does not hold yet, or not any more
            return False
    return True
