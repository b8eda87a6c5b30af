"""The one way into a guarded model: judge, seal, write down, and only then make the version or move the alias.

The order is what makes a crash harmless. Files are sealed before the ledger names them; the ledger names a version or
a move before it is made. So whatever is in the registry is in the ledger, and what a crash left undone is done by
asking again. One decision at a time, over all workers of this machine.
Not covered: what MLflow's routes may do (``gated_store.py``), and what evidence must hold (``admission.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guardrail.errors import EvidenceInvalid, PolicyDenied
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import sha256
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.ledger_types import Head
from guardrail.evidence.orders import Rollback
from guardrail.evidence.trust import GuardedModel
from guardrail.registry.checks import as_signed, require_bounded
from guardrail.registry.reader import sealed_uri
from guardrail.registry.server import candidate, recording
from guardrail.registry.server.admission import Admission, Court, admit, protected_alias
from guardrail.registry.server.beneath import Beneath
from guardrail.registry.server.holding import held
from guardrail.registry.server.journal import Journal
from guardrail.registry.server.marking import mark_all
from guardrail.registry.server.recording import Kept
from guardrail.registry.server.refusals import unproven
from guardrail.registry.server.sealed import SealedTree, sealed_digest
from guardrail.registry.server.state import Admitted, State
from guardrail.registry.server.validity import Ends
from guardrail.registry.server.watch import TrustWatch
from guardrail.registry.tags import MODEL_ID, tags


class Registrar:
    """What the gate does for guarded models; ``tree`` is where adapters are sealed, None until it is known."""

    def __init__(self, beneath: Beneath, watch: TrustWatch, journal: Journal) -> None:
        self.beneath, self.watch, self.journal = beneath, watch, journal
        self.tree: SealedTree | None = None
        self.ends = Ends(self.sealing)

    def court(self) -> Court:
        """What everything is judged by, now.

        Raises:
            EvidenceInvalid: the trust file or the ledger is not in order; nothing guarded is written.
        """
        trust = self.watch.current()
        if trust.version > self.journal.state().trust_version:
            recording.note_trust(self.journal, trust)
        state = self.journal.state()
        state.require_in_force(trust)
        return Court(trust, state, self.watch.now())

    def sealing(self) -> SealedTree:
        """Where adapters are sealed.

        Raises:
            EvidenceInvalid: this server's artifacts are not guarded.
        """
        if self.tree is None:
            raise EvidenceInvalid(
                "the gate is not active in this server: its artifacts are not guarded",
                expected="a server started with `guardrail server`, or with --app-name guardrail",
            )
        return self.tree

    def guarded_model(self, name: str) -> GuardedModel:
        """The guarded model of exactly this name.

        Raises:
            EvidenceInvalid: there is none.
        """
        found = self.watch.current().guarded(name)
        if found is None or found.name != name:
            raise EvidenceInvalid(f"the model {name!r} is not guarded", expected="a model of the trust file")
        return found

    def propose(self, guarded: GuardedModel, source: str, given: Mapping[str, str]) -> Any:
        """The version of what lies at ``source``, if its evidence admits it.

        Raises:
            EvidenceInvalid: the evidence does not hold.
            PolicyDenied: somebody who may approve said no.
            AwaitingApproval: all is well, but more persons must agree.
        """
        tree = self.sealing()
        model = candidate.logged_model(source)
        with tree.staging() as place:
            candidate.fetch(model, place)
            admission = self._judged(place, guarded)
            if admission.examined.evidence_sha256 not in self.journal.state().admitted:
                require_bounded(admission.examined)
            wanted = _tags(admission, str(model.model_id))
            if given and dict(given) != wanted:
                raise unproven("a tag of a version, other than those the server writes itself,", guarded.name)
            with tree.locked():
                kept = Kept(tree.keep(place), str(model.model_id))
                recording.note_admitted(self.journal, admission, kept)
                return self._version(admission)

    def complete(self, found: Admitted) -> str:
        """Make the version of admitted evidence, if it is not there, and move its alias to it; the version.

        Raises:
            EvidenceInvalid: the evidence does not hold any more.
            PolicyDenied: somebody rejected it.
            AwaitingApproval: more persons must agree.
        """
        with self.sealing().locked():
            admission = self.judge(found, self.journal.votes(found.evidence))
            admission.require_approved()
            version = str(self._version(admission).version)
            self._move(admission, version)
            return version

    def judge(self, found: Admitted, votes: Sequence[bytes]) -> Admission:
        """Admitted evidence again, with these votes about it.

        Raises:
            EvidenceInvalid: it does not hold any more, or a vote is not about it.
            PolicyDenied: somebody rejected it.
        """
        with self.sealing().verified(Kept.of(found).sealed) as place:
            return admit(place, self.court(), self.guarded_model(found.model), votes, found.alias)

    def move_alias(self, guarded: GuardedModel, alias: str, version: str) -> None:
        """Move a protected alias forward, to a version whose sealed evidence admits it now.

        Raises:
            EvidenceInvalid: it is not admitted, or this is no move forward.
            PolicyDenied: somebody rejected it.
            AwaitingApproval: more persons must agree.
        """
        with self.sealing().locked():
            target = self.beneath.version(guarded.name, version)
            admission = self._admitted(guarded, alias, target)
            admission.require_approved()
            recording.admitted(self.journal.state(), admission.examined.evidence_sha256)
            self._mend(target, admission)
            self._move(admission, str(target.version))  # as the database spells it: it takes "01" for 1

    def roll_back(self, order: Rollback, statement: str, persons: tuple[str, ...]) -> Head:
        """Move an alias where a signed order says, after writing it down.

        Raises:
            EvidenceInvalid: the order does not fit the registry as it is now, or its target is not admitted.
            PolicyDenied: somebody rejected the target.
            AwaitingApproval: more persons must agree to the target.
        """
        guarded, place = self.guarded_model(order.model), (order.model, order.alias)
        with self.sealing().locked():
            if self.journal.state().moved_by.get(place) != statement:
                self._require_fitting(order)
                evidence = self._require_target(guarded, order)
                recording.note_rollback(self.journal, order, statement, persons, evidence)
            self._require_held(order)
            if self.beneath.aliases(order.model).get(order.alias) != order.to_version:
                self.beneath.set_alias(order.model, order.alias, order.to_version)
            return self.journal.end()

    def mark_revoked(self, manifest: str = "") -> int:
        """Have every version of a revoked adapter (or of all of them) say so in MLflow; how many did not yet."""
        state, models = self.journal.state(), self.watch.names().models
        with self.sealing().locked():
            return mark_all(self.beneath, state, models, manifest)

    def _judged(self, place: Path, guarded: GuardedModel) -> Admission:
        """Judge a proposal; a refusal of what somebody who may decide has signed, file by file, is written down."""
        court = self.court()
        envelope = _envelope(place)
        votes = self.journal.votes(sha256(envelope))
        try:
            return admit(place, court, guarded, votes)
        except (EvidenceInvalid, PolicyDenied) as error:
            if as_signed(place, court.trust.keys_of("decide")):
                recording.note_refused(self.journal, sha256(envelope), guarded, error)
            raise

    def _version(self, admission: Admission) -> Any:
        """The version of sealed, admitted, approved evidence; the one that is there, or a new one.

        A number that the ledger names for other evidence is never taken: where rows were lost, numbers go on after the
        last one that it names.
        """
        admission.require_approved()
        state = self.journal.state()
        found = recording.admitted(state, admission.examined.evidence_sha256)
        kept, name = Kept.of(found), found.model
        location = sealed_uri(f"sealed/{kept.sealed}")
        there = [v for v in self.beneath.versions_at(name, location) if state.may_name(name, str(v.version), found)]
        there.sort(key=lambda version: (name, str(version.version)) not in state.named)
        if there:
            self._mend(there[0], admission)
            return there[0]
        run_id, above = candidate.source_run(kept.model_id), state.last_number.get(name, 0)
        return self.beneath.make_version(name, location, run_id, _tags(admission, kept.model_id), above)

    def _mend(self, version: Any, admission: Admission) -> None:
        """The tags and the description of a version that holds this evidence are the server's own, whoever wrote."""
        found = recording.admitted(self.journal.state(), admission.examined.evidence_sha256)
        wanted = _tags(admission, Kept.of(found).model_id)
        self.beneath.mend(found.model, str(version.version), wanted)

    def _admitted(self, guarded: GuardedModel, alias: str, target: Any) -> Admission:
        with self.sealing().verified(sealed_digest(str(target.source))) as place:
            votes = self.journal.votes(sha256(_envelope(place)))
            return admit(place, self.court(), guarded, votes, alias)

    def _move(self, admission: Admission, version: str) -> None:
        """Write the move down, then move; nothing where the alias is there already, at this very evidence."""
        state = self.journal.state()
        found = recording.admitted(state, admission.examined.evidence_sha256)
        name, alias = found.model, found.alias
        current, stands = self.beneath.aliases(name).get(alias), state.stands.get((name, alias))
        if stands is None or not stands.is_at(version, found):
            self._require_later(found, version, current, state)
            recording.note_promotion(self.journal, admission, version)
        if current != version:
            self.beneath.set_alias(name, alias, version)

    def _require_later(self, found: Admitted, version: str, current: str | None, state: State) -> None:
        """A step forward by the ledger; where that never moved the alias, later than what it points at."""
        recording.require_forward(found, version, state)
        if (found.model, found.alias) not in state.stands and not int(version) > int(current or 0):
            raise EvidenceInvalid(
                f"{found.model}@{found.alias} points at version {current}; moving it to {version} is no step forward",
                expected="a later version", next_step="guardrail registry rollback, signed by who may approve",
            )  # fmt: skip

    def _require_fitting(self, order: Rollback) -> None:
        """The order is about the alias as it stands: at ``from``, by the ledger, and not moved since it was signed.

        Where the ledger never moved it, what the database says must do.
        """
        stands = self.journal.state().stands.get((order.model, order.alias))
        current = stands.version if stands else self.beneath.aliases(order.model).get(order.alias)
        if current != order.from_version or order.to_version == order.from_version:
            raise EvidenceInvalid(
                f"{order.model}@{order.alias} points at version {current}, by the ledger",
                expected=f"{order.from_version}, which the order moves from, and another one to move to",
                next_step="sign a new order",
            )
        recording.require_unmoved(order, self.journal.state())

    def _require_held(self, order: Rollback) -> None:
        """The version that an order names holds what the ledger moved the alias to: a number may have come again."""
        state = self.journal.state()
        stands = state.stands[(order.model, order.alias)]
        found = held(self.beneath.version(order.model, order.to_version), state)
        if not stands.is_at(order.to_version, found):
            raise EvidenceInvalid(
                f"version {order.to_version} holds the evidence {found.evidence}",
                expected=f"{stands.evidence}, to which entry {stands.entry} moved the alias",
                next_step="guardrail registry doctor",
            )

    def _require_target(self, guarded: GuardedModel, order: Rollback) -> str:
        """The target is sealed, admitted and approved, or was, where expired evidence only warns; its evidence."""
        target = self.beneath.version(order.model, order.to_version)
        held(target, self.journal.state())
        with self.sealing().verified(sealed_digest(str(target.source))) as place:
            evidence, court = sha256(_envelope(place)), self.court()
            recording.admitted(court.state, evidence)
            if protected_alias(guarded, order.alias).when_invalid == "warn":
                court = Court(court.trust, court.state, court.state.held[evidence])
            admission = admit(place, court, guarded, self.journal.votes(evidence), order.alias)
        admission.require_approved()
        if admission.examined.decision.manifest != order.manifest:
            raise EvidenceInvalid(
                f"the order is about the adapter {order.manifest}",
                expected=f"{admission.examined.decision.manifest}, which is version {order.to_version}",
                next_step="sign a new order",
            )
        return evidence


def _tags(admission: Admission, model_id: str) -> dict[str, str]:
    examined = admission.examined
    return tags(examined.decision, examined.evidence_sha256, examined.signed_by) | {MODEL_ID: model_id}


def _envelope(place: Path) -> bytes:
    path = place / EVIDENCE / ENVELOPE
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise EvidenceInvalid(
            f"there is no {EVIDENCE}/{ENVELOPE} of a sensible size", expected="evidence beside the adapter"
        )
    return path.read_bytes()
