"""What a worker does before its first request: says what it guards, names what the database says otherwise than the
ledger, and finishes what a crash left between an entry and the rows that follow from it.

A difference that no crash explains stops nothing but what it is about: that alias is not handed out, and does not move
except by evidence or by an order of persons. So a server starts on a restored database, and says so.
Not covered: hashing (the doctor).
"""

from __future__ import annotations

from guardrail import logs
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import GuardedModel, Trust
from guardrail.gate.ledger.ledger_state import Position
from guardrail.gate.refusal_log import one_line
from guardrail.gate.registrar import Registrar
from guardrail.gate.versions.reconcile import compare
from guardrail.gate.versions.version_evidence import held

MOST = 50
"""The most differences of one model that are named at start-up; the doctor names all."""
_logger = logs.logger("guardrail.server")


def begin(registrar: Registrar, destination: str) -> None:
    """Say what is guarded, finish what a crash cut off, name every difference.

    Raises:
        EvidenceInvalid: the trust file or the ledger is not in order.
    """
    trust = registrar.court().trust
    _logger.info("%s", one_line(_active(registrar, trust, destination)))
    if marked := registrar.mark_revoked():
        _logger.warning("%d versions of revoked adapters did not say so in MLflow; now they do", marked)
    for guarded in trust.models:
        _finish_moves(registrar, guarded)
        _name_differences(registrar, guarded)


def _active(registrar: Registrar, trust: Trust, destination: str) -> str:
    head = registrar.journal.head()
    ledger = f"entry {head.number} ({head.digest})" if head else "no entry yet"
    models = "; ".join(f"{m.name}@{','.join(a.alias for a in m.aliases)}" for m in trust.models)
    return (
        f"the gate is active: it guards {len(trust.models)} models, trust file version {trust.version} until "
        f"{trust.expires:%Y-%m-%d %H:%M} UTC, ledger at {ledger}, artifacts in {destination}: {models}"
    )


def _finish_moves(registrar: Registrar, guarded: GuardedModel) -> None:
    """An alias that is where the ledger had moved it before, while the version that it moved it to then is there and
    holds that evidence: the server was killed between the entry and the alias."""
    for protected in guarded.aliases:
        with registrar.sealing().queues.decisions.turn():
            state = registrar.journal.state()
            stands = state.stands.get((guarded.name, protected.alias))
            before = state.before.get((guarded.name, protected.alias))
            points = registrar.beneath.aliases(guarded.name).get(protected.alias)
            if stands is None or points == stands.version or points != (before.version if before else None):
                continue
            if _is_there(registrar, guarded.name, stands):
                registrar.beneath.set_alias(guarded.name, protected.alias, stands.version)
                _logger.warning(
                    "%s@%s: finished the move to version %s, entry %d",
                    guarded.name,
                    protected.alias,
                    stands.version,
                    stands.entry,
                )


def _is_there(registrar: Registrar, name: str, stands: Position) -> bool:
    """Whether the version that the ledger moved an alias to is in the database and holds what it did then."""
    state = registrar.journal.state()
    for version in registrar.beneath.versions(name):
        if str(version.version) == stands.version:
            try:
                return stands.is_at(stands.version, held(version, state))
            except EvidenceInvalid:
                return False
    return False


def _name_differences(registrar: Registrar, guarded: GuardedModel) -> None:
    found = list(compare(registrar.beneath, registrar.journal.state(), guarded))
    for problem in found[:MOST]:
        _logger.error(
            "the database differs from the ledger: %s: %s; finish: %s",
            one_line(problem.where),
            one_line(problem.what),
            problem.finish or "somebody must look",
        )
    if len(found) > MOST:
        _logger.error("%s: %d more differences; guardrail registry doctor names them", guarded.name, len(found) - MOST)
