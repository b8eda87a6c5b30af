"""Whether what a protected alias points at may be handed out: it is what the ledger moved the alias to, nobody revoked
it, nothing that its decision rests on has expired, and the trust file still pins its policy and its base.

Asked at every resolution. The tags are not believed: which evidence it is the ledger says, and on which terms that was
admitted its sealed decision and statements say, which are read once in each process and compared with the ledger's
digests. Not covered: versions asked for by number, files asked for by their digest, the adapter's own bytes (`guardrail
pull` and the doctor hash them), and whether a pinned policy promises what the trust file has come to ask since (its
text is in the files; `verify --trust` and `pull` read them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from guardrail import logs
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE, SIGNED, stage_file
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import unverified_payload
from guardrail.evidence.expiry import expired
from guardrail.evidence.statements import decision_statement
from guardrail.evidence.statements.earliest_expiry import earliest
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias
from guardrail.gate.admission import require_not_revoked
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.ledger_drafts import Kept
from guardrail.gate.sealed.tree import SealedTree
from guardrail.gate.versions.version_evidence import held, is_sealed

_logger = logs.logger("guardrail.server")


class DiffersError(EvidenceInvalid):
    """The database and the ledger do not say the same of an alias."""


@dataclass(frozen=True)
class Terms:
    """What admitted evidence holds for: ``until`` is the end of the first of its decision and its stages' statements;
    ``policy`` and ``base`` are digests."""

    until: datetime
    policy: str
    base: str


@dataclass
class SealedTerms:
    """The terms of admitted evidence, read where it was sealed."""

    sealing: Callable[[], SealedTree]
    _known: dict[str, Terms] = field(default_factory=dict)

    def __call__(self, found: Admitted) -> Terms:
        """Read them once.

        Raises:
            EvidenceInvalid: what lies there is not what the ledger admitted.
            ServiceUnavailable: the storage does not answer.
        """
        if found.evidence not in self._known:
            self._known[found.evidence] = self._read(found)
        return self._known[found.evidence]

    def _read(self, found: Admitted) -> Terms:
        envelope = self._file(found, ENVELOPE, found.evidence)
        signed = decision_statement.parse(unverified_payload(envelope))  # the ledger names its digest
        stages = [stage_file(stage) for stage in SIGNED]
        said = [self._file(found, name, signed.evidence[name]) for name in stages if name in signed.evidence]
        decision = signed.predicate.decision
        return Terms(earliest(decision.valid_until, said), decision.policy, decision.base.digest)

    def _file(self, found: Admitted, name: str, digest: str) -> bytes:
        sealed = Kept.of(found).sealed
        data = self.sealing().read(sealed, f"{EVIDENCE}/{name}")
        if sha256(data) != digest:
            raise EvidenceInvalid(
                f"{name} of the sealed adapter {sealed} was changed",
                expected=f"sha256 {digest}",
                next_step="guardrail registry doctor",
            )
        return data


def require_valid(
    version: Any,
    guarded: GuardedModel,
    protected: ProtectedAlias,
    state: LedgerState,
    now: datetime,
    terms: Callable[[Admitted], Terms],
) -> None:
    """Refuse, or warn in the server's log of what does not hold any more, as the trust file says for this alias.

    Raises:
        DiffersError: the alias is not where the ledger moved it, whatever the trust file says.
        EvidenceInvalid: expired, revoked, without evidence, or of a policy or base that is not pinned any more, where
            the alias says ``refuse``.
        ServiceUnavailable: the storage does not answer.
    """
    found = _standing(version, guarded, protected.alias, state)
    try:
        _check(found, guarded, protected, state, now, terms)
    except EvidenceInvalid as error:
        if protected.when_invalid == "refuse":
            raise
        _logger.warning("%s@%s version %s: %s", version.name, protected.alias, version.version, error.got)


def _standing(version: Any, guarded: GuardedModel, alias: str, state: LedgerState) -> Admitted | None:
    """What the ledger moved the alias to; None where it never did, and the version is from before.

    The ledger is asked by the trust file's name: a database that folds names may hold another spelling of it.
    """
    stands = state.stands.get((guarded.name, alias))
    if stands is None and not is_sealed(version):
        return None
    try:
        found = held(version, state)
    except EvidenceInvalid as error:
        raise DiffersError(error.got, expected=error.expected, next_step=error.next_step) from error
    if stands is None or not stands.is_at(str(version.version), found):
        moved = f"entry {stands.entry} moved it to version {stands.version}" if stands else "the ledger never moved it"
        raise DiffersError(
            f"{version.name}@{alias} points at version {version.version}, evidence {found.evidence}",
            expected=moved + (f", evidence {stands.evidence}" if stands else ""),
            next_step="guardrail registry doctor; then guardrail promote again, from the same run, or order a rollback",
        )
    return found


def _check(
    found: Admitted | None,
    guarded: GuardedModel,
    protected: ProtectedAlias,
    state: LedgerState,
    now: datetime,
    terms: Callable[[Admitted], Terms],
) -> None:
    alias = protected.alias
    if found is None:
        raise EvidenceInvalid(
            f"the alias {alias!r} points at a version without evidence", next_step="promote an adapter to it"
        )
    require_not_revoked(found.manifest, state)
    signed = terms(found)
    if expired(signed.until, now):
        raise EvidenceInvalid(
            f"the evidence behind the alias {alias!r} expired at {signed.until}",
            expected=f"evidence that is valid at {now}",
            next_step="evaluate and promote the adapter again",
        )
    _require_pinned(signed, guarded, protected)


def _require_pinned(terms: Terms, guarded: GuardedModel, protected: ProtectedAlias) -> None:
    for what, found, pinned in (
        ("policy", terms.policy, (protected.policy,)),
        ("base", terms.base, guarded.bases),
    ):
        if pinned and found not in pinned:
            raise EvidenceInvalid(
                f"the evidence behind the alias {protected.alias!r} is for the {what} {found}",
                expected=f"what the trust file pins: {', '.join(pinned)}",
                next_step=f"promote an adapter that was proven with this {what}",
            )
