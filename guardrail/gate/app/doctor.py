"""Is everything as the ledger says? Every version of a guarded model has its evidence, every alias its promotion.

Reads all sealed bytes of versions and of what waits. What it finds is finished by asking again (a crash came between
two steps), or only a hand in the database or on the disk can have done it, or the storage does not answer.
Not covered: mending; unguarded models; what was rejected, whose files nobody is given any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from guardrail.errors import AwaitingApproval, EvidenceInvalid, GuardrailError, PolicyDenied
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import signers, unverified_payload
from guardrail.evidence.statements import decision_statement
from guardrail.evidence.trust.trust_file import GuardedModel
from guardrail.gate.admission import Court, admit
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.ledger_drafts import Kept
from guardrail.gate.registrar import Registrar
from guardrail.gate.sealed.tree import sealed_digest
from guardrail.gate.versions.reconcile import AGAIN, compare
from guardrail.gate.versions.version_evidence import is_sealed
from guardrail.registry.gate.protocol import Health, RegistryProblem
from guardrail.registry.mlflow.tags import ADAPTER, MODEL_ID, PREFIX, REVOKED, VERDICT, tags
from guardrail.registry.mlflow.tags import EVIDENCE as EVIDENCE_TAG

AT_THE_NEXT_ENTRY = "the next entry finishes the line that a crash cut off"


def examine_all(registrar: Registrar) -> Health:
    """Look at every guarded model, every sealed adapter behind a version or waiting for one, and the whole ledger."""
    found: list[RegistryProblem] = []
    try:
        entries = registrar.journal.recheck()
    except GuardrailError as error:
        entries = 0
        finish = AT_THE_NEXT_ENTRY if registrar.journal.unfinished() else ""
        found.append(RegistryProblem(where="ledger", what=error.message(), finish=finish))
    court = registrar.court()
    counted = 0
    for guarded in court.trust.models:
        versions = registrar.beneath.versions(guarded.name)
        counted += len(versions)
        found.extend(compare(registrar.beneath, court.state, guarded))
        for one in versions:
            found.extend(_files(registrar, one))
        found.extend(_unfinished(registrar, court, guarded, _holdings(versions, court.state)))
    return Health(
        models=len(court.trust.models),
        versions=counted,
        entries=entries,
        head=registrar.journal.head(),
        problems=tuple(found),
    )


def _files(registrar: Registrar, version: Any) -> Iterator[RegistryProblem]:
    """The files are those that were sealed, and every tag says what their evidence says."""
    where = f"{version.name}/{version.version}"
    if not is_sealed(version):
        return
    try:
        with registrar.sealing().verified(sealed_digest(str(version.source))) as place:
            wrong = _tags(place, version)
    except (GuardrailError, OSError) as error:
        yield RegistryProblem(where=where, what=str(error))
        return
    if wrong:
        yield RegistryProblem(where=where, what=wrong, finish=AGAIN)


def _tags(place: Path, version: Any) -> str:
    """Which tag says otherwise than the evidence; but for those that ``versions/reconcile.py`` compares."""
    envelope = (place / EVIDENCE / ENVELOPE).read_bytes()
    try:
        decision = decision_statement.parse(unverified_payload(envelope)).predicate.decision
    except EvidenceInvalid as error:
        return error.got
    said = {key: value for key, value in version.tags.items() if key.startswith(PREFIX)}
    expected = tags(decision, sha256(envelope), signers(envelope))
    elsewhere = {EVIDENCE_TAG, ADAPTER, MODEL_ID, REVOKED, *([VERDICT] if REVOKED in said else [])}
    wrong = sorted(key for key in {*said, *expected} - elsewhere if said.get(key) != expected.get(key))
    return f"its tags {', '.join(wrong)} say otherwise than its evidence" if wrong else ""


def _holdings(versions: Sequence[Any], state: LedgerState) -> set[str]:
    """The evidence that stands behind a version, by what its files hold."""
    sealed = {(str(one.name), str(one.source).removeprefix("mlflow-artifacts:/")) for one in versions}
    return {state.sealed[place] for place in sealed if place in state.sealed}


def _unfinished(
    registrar: Registrar, court: Court, guarded: GuardedModel, holdings: set[str]
) -> Iterator[RegistryProblem]:
    """Evidence that was admitted and approved, but stands behind no version, or whose alias did not move there; and
    evidence that cannot be read.

    ``holdings`` is the evidence that has a version; what later evidence has overtaken needs nothing more.
    """
    for one in court.state.waiting():
        if one.model != guarded.name or court.state.overtaken(one):
            continue
        where = f"{one.model}, evidence {one.evidence}"
        try:
            complete = _is_complete(registrar, court, guarded, one)
        except (GuardrailError, OSError) as error:
            yield RegistryProblem(where=where, what=str(error))
            continue
        if complete:
            missing = "its alias did not move" if one.evidence in holdings else "it has no version"
            yield RegistryProblem(where=where, what=f"admitted, but {missing}", finish=AGAIN)


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
