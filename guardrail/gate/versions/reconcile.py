"""What the ledger and the database say differently, each difference by name: asked at start-up and by the doctor.

By rows alone, so it costs no more for large adapters: a version's sealed place names every byte it should hold, and the
ledger says which evidence was sealed there. What it finds has one of three causes: a crash came between two steps, the
database was restored or is another one, or a hand wrote to it.
Not covered: mending, and whether the bytes are there (``gate/app/doctor.py`` hashes them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import GuardedModel
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState, Position
from guardrail.gate.versions.mlflow_tables import Beneath
from guardrail.gate.versions.revoked_marks import unmarked
from guardrail.gate.versions.version_evidence import differences, sealed_evidence
from guardrail.registry.gate.protocol import RegistryProblem

AGAIN = "guardrail promote again, from the same run"
MOVE_AGAIN = f"{AGAIN} (or hand the rollback in again, or order another)"
MARK_AGAIN = "start the server again, or hand the revocation in again"


def compare(beneath: Beneath, state: LedgerState, guarded: GuardedModel) -> Iterator[RegistryProblem]:
    """Every difference about one guarded model: its versions, those that are missing, its protected aliases."""
    versions = beneath.versions(guarded.name)
    holdings = {str(one.version): found for one in versions if (found := _found(one, state)) is not None}
    for one in versions:
        yield from _version(one, holdings.get(str(one.version)), state)
    yield from _missing(guarded.name, holdings, state)
    yield from _aliases(beneath.aliases(guarded.name), holdings, state, guarded)


def _found(version: Any, state: LedgerState) -> Admitted | None:
    try:
        return sealed_evidence(version, state)
    except EvidenceInvalid:
        return None


def _version(version: Any, found: Admitted | None, state: LedgerState) -> Iterator[RegistryProblem]:
    where = f"{version.name}/{version.version}"
    if found is None:
        yield RegistryProblem(where=where, what=f"the ledger never admitted what it holds ({version.source})")
        return
    for what in differences(version, found, state):
        yield RegistryProblem(where=where, what=what, finish=AGAIN)
    if what := unmarked(version, found, state):
        yield RegistryProblem(where=where, what=what, finish=MARK_AGAIN)


def _missing(name: str, holdings: Mapping[str, Admitted], state: LedgerState) -> Iterator[RegistryProblem]:
    """Evidence that an alias was moved to, and that no version holds any more, under whatever number."""
    for (model, number), given in state.named.items():
        if model != name or any(given.holds(found) for found in holdings.values()):
            continue
        what = (
            f"entry {given.entry} of the ledger moved an alias to it, evidence {given.evidence}; no version holds that"
        )
        yield RegistryProblem(where=f"{name}/{number}", what=what, finish=AGAIN)


def _aliases(
    stored: Mapping[str, str], holdings: Mapping[str, Admitted], state: LedgerState, guarded: GuardedModel
) -> Iterator[RegistryProblem]:
    """A protected alias points where it was last moved to, at a version that holds what it was moved to."""
    for protected in guarded.aliases:
        points, stands = stored.get(protected.alias), state.stands.get((guarded.name, protected.alias))
        found = holdings.get(points or "")
        if points is None and stands is None:
            continue
        if points and stands and found and stands.is_at(points, found):
            continue
        what = f"it points at {_told(points, found)}; the ledger moved it to {_moved(stands)}"
        yield RegistryProblem(
            where=f"{guarded.name}@{protected.alias}", what=what, finish=MOVE_AGAIN if stands is not None else ""
        )


def _told(points: str | None, found: Admitted | None) -> str:
    if points is None:
        return "no version"
    return f"version {points} ({f'evidence {found.evidence}' if found else 'no evidence that was admitted'})"


def _moved(stands: Position | None) -> str:
    return f"version {stands.version} (evidence {stands.evidence}, entry {stands.entry})" if stands else "none"
