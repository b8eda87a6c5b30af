"""Is everything as the ledger says? Every version of a guarded model has its evidence, every alias its promotion.

Reads all sealed bytes. What it finds is either finished by asking again (a crash came between two steps), or something
that only a hand in the database or on the disk can have done.
Not covered: mending; unguarded models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guardrail.errors import AwaitingApproval, GuardrailError, PolicyDenied
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import file_sha256
from guardrail.evidence.trust import GuardedModel
from guardrail.registry.server.registrar import Registrar
from guardrail.registry.server.sealed import sealed_digest
from guardrail.registry.server.state import Admitted, State
from guardrail.registry.tags import EVIDENCE as EVIDENCE_TAG
from guardrail.registry.wire import Health, Problem

AGAIN = "guardrail promote again, from the same run"

AT_THE_NEXT_ENTRY = "the next entry finishes the line that a crash cut off"


def examine_all(registrar: Registrar) -> Health:
    """Look at every guarded model, every sealed adapter behind a version, and the whole ledger."""
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
        found.extend(_unfinished(registrar, court.state, guarded, numbers))
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
    registrar: Registrar, state: State, guarded: GuardedModel, numbers: dict[str, int]
) -> Iterator[Problem]:  # fmt: skip
    """Evidence that was admitted and approved, but stands behind no version, or whose alias did not move there.

    ``numbers`` maps evidence to its version; one that a later version has overtaken needs nothing more.
    """
    for one in state.waiting():
        number, highest = numbers.get(one.evidence), state.highest.get((one.model, one.alias), 0)
        overtaken = number is not None and number <= highest
        if one.model != guarded.name or overtaken or not _is_complete(registrar, one):
            continue
        missing = "its alias did not move" if one.evidence in numbers else "it has no version"
        yield Problem(where=f"{one.model}, evidence {one.evidence}", what=f"admitted, but {missing}", finish=AGAIN)


def _is_complete(registrar: Registrar, found: Admitted) -> bool:
    """Whether nothing but a crash can have kept it from being promoted."""
    try:
        registrar.judge(found, registrar.journal.votes(found.evidence)).require_approved()
    except (AwaitingApproval, PolicyDenied):
        return False
    except GuardrailError:  # it expired or was revoked while it waited: nothing is to be finished
        return False
    return True
