"""The one way into a guarded model: judge, seal, write down, and only then make the version or move the alias.

The order is what makes a crash harmless. Files are sealed before the ledger names them; the ledger names a version or
a move before it is made. So whatever is in the registry is in the ledger, and what a crash left undone is done by
asking again.

Cheap refusals come first: what the ledger, the database or the evidence alone refuses, no byte of an adapter is read
for. Then the adapter is read, in a queue of its model's (``gate/sealed/queues.py``). Then, one decision at a time over
all workers, what is known is judged once more by what the ledger says now, written down and done; nothing long happens
there. Not covered: what MLflow's routes may do (``gate/store/gated_store.py``), and what evidence must hold
(``admission.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guardrail.errors import EvidenceInvalid, PolicyDenied
from guardrail.evidence.bundle import ENVELOPE, EVIDENCE
from guardrail.evidence.digest import manifest, manifest_digest, sha256
from guardrail.evidence.envelope import LARGEST
from guardrail.evidence.ledger.entries import Head
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Rollback
from guardrail.evidence.trust.trust_file import GuardedModel
from guardrail.gate import ledger_drafts, proposed_files
from guardrail.gate.admission import Admission, Court, admit, exactly_guarded, foresee, judge, protected_alias
from guardrail.gate.ledger.journal import Journal
from guardrail.gate.ledger.ledger_state import Admitted, LedgerState
from guardrail.gate.ledger_drafts import Kept
from guardrail.gate.mlflow_errors import unproven
from guardrail.gate.refusal_pacing import unchanged
from guardrail.gate.sealed.tree import SealedTree, require_exact, sealed_digest
from guardrail.gate.trust.trust_watch import TrustWatch
from guardrail.gate.versions.alias_validity import SealedTerms
from guardrail.gate.versions.mlflow_tables import Beneath
from guardrail.gate.versions.revoked_marks import mark_all
from guardrail.gate.versions.version_evidence import held, sealed_evidence
from guardrail.registry.mlflow.tags import MODEL_ID, PREFIX, tags
from guardrail.registry.read.reader import sealed_uri
from guardrail.registry.verify.evidence_checks import Outline, as_signed, expected_files, require_bounded

MOST_FAKES = 4096
"""So many logged models that were refused for their bytes are remembered by each worker."""


class Registrar:
    """What the gate does for guarded models; ``tree`` is where adapters are sealed, None until it is known."""

    def __init__(self, beneath: Beneath, watch: TrustWatch, journal: Journal) -> None:
        self.beneath, self.watch, self.journal = beneath, watch, journal
        self.tree: SealedTree | None = None
        self.terms = SealedTerms(self.sealing)
        self._fakes: set[str] = set()

    def court(self) -> Court:
        """What everything is judged by, now.

        Raises:
            EvidenceInvalid: the trust file or the ledger is not in order; nothing guarded is written.
        """
        trust = self.watch.current()
        if trust.version > self.journal.state().trust_version:
            ledger_drafts.note_trust(self.journal, trust)
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
        return exactly_guarded(self.watch.current(), name)

    def propose(self, guarded: GuardedModel, source: str, given: Mapping[str, str]) -> Any:
        """The version of what lies at ``source``, if its evidence admits it.

        What the evidence alone refuses is refused before a file of the adapter is read, and what was admitted already
        is not fetched again.

        Raises:
            EvidenceInvalid: the evidence does not hold.
            PolicyDenied: somebody who may approve said no.
            AwaitingApproval: all is well, but more persons must agree.
        """
        tree, model = self.sealing(), proposed_files.logged_model(source)
        with tree.staging() as place:
            outline = proposed_files.outline(model, place, self.court().trust.keys_of("decide"))
            foreseen = self._foreseen(outline, guarded)
        self._require_bounded(foreseen)
        if given and dict(given) != _tags(foreseen, str(model.model_id)):
            raise unproven("a tag of a version, other than those the server writes itself,", guarded.name)
        most, found = proposed_files.most_bytes(outline), self._sealed_already(foreseen)
        queues, model_id = self.sealing().queues, str(model.model_id)
        if found is None and model_id not in self._fakes:
            with queues.work(guarded.name).turn():
                found = self._sealed_already(foreseen)  # by whoever was before us
                if found is None and model_id not in self._fakes:
                    return self._sealed(model, guarded, most)
        if found is None:  # it was read and refused before: nobody waits for that again
            with queues.again.turn():
                found = self._sealed_already(foreseen)
                if found is None:
                    return self._sealed(model, guarded, most)
        if Kept.of(found).model_id != model_id:
            self._require_same(model, guarded, most)
        return self._finished(found)

    def complete(self, found: Admitted) -> str:
        """Make the version of admitted evidence, if it is not there, and move its alias to it; the version.

        Raises:
            EvidenceInvalid: the evidence does not hold any more, or the alias has moved on.
            PolicyDenied: somebody rejected it.
            AwaitingApproval: more persons must agree.
        """
        self.judge(found, self.journal.votes(found.evidence)).require_approved()
        version = self._version_of(found)
        if version is not None and self._stands_at(found, str(version.version)):
            return str(version.version)
        with self.sealing().queues.work(found.model).turn():
            guarded = self.guarded_model(found.model)
            admission = self._whole(Kept.of(found).sealed, guarded, found.alias)
            with self.sealing().queues.decisions.turn():
                still = self._still(admission, guarded, found.alias)
                number = str(self._version(still).version)
                self._move(still, number)
                return number

    def judge(self, found: Admitted, votes: Sequence[bytes]) -> Admission:
        """Admitted evidence again, with these votes about it; the adapter's own files are not read.

        Raises:
            EvidenceInvalid: it does not hold any more, or a vote is not about it.
            PolicyDenied: somebody rejected it.
        """
        with self._outlined(Kept.of(found).sealed) as outline:
            return foresee(outline, self.court(), self.guarded_model(found.model), votes, found.alias)

    def move_alias(self, guarded: GuardedModel, alias: str, version: str) -> None:
        """Move a protected alias forward, to a version whose sealed evidence admits it now.

        Every byte is read again, though only of what would move, or of what the alias points at already.

        Raises:
            EvidenceInvalid: it is not admitted, or this is no move forward.
            PolicyDenied: somebody rejected it.
            AwaitingApproval: more persons must agree.
            ServiceUnavailable: too many ask for the same.
        """
        target = self.beneath.version(guarded.name, version)
        number, found = str(target.version), sealed_evidence(target, self.journal.state())  # it takes "01" for 1
        sealed = sealed_digest(str(target.source))
        _require_for(found, alias)
        there = self._stands_at(found, number)
        if there:
            unchanged()
        with self._outlined(sealed) as outline:
            _require_same_evidence(outline, found)
            foresee(outline, self.court(), guarded, self.journal.votes(found.evidence), alias).require_approved()
        queues = self.sealing().queues
        with (queues.again if there else queues.work(guarded.name)).turn():
            if not there and self._stands_at(found, number):
                unchanged()
                return  # whoever was before us has read every byte since we came, and moved it
            admission = self._whole(sealed, guarded, alias)
        with queues.decisions.turn():
            still = self._still(admission, guarded, alias)
            self._mend(self.beneath.version(guarded.name, number), still)
            self._move(still, number)

    def roll_back(self, order: Rollback, envelope: bytes, persons: tuple[str, ...]) -> Head:
        """Move an alias where a signed order says, after writing it down.

        Raises:
            EvidenceInvalid: the order does not fit the registry as it is now, or its target is not admitted.
            PolicyDenied: somebody rejected the target.
            AwaitingApproval: more persons must agree to the target.
        """
        guarded, target = self.guarded_model(order.model), None
        if not self._is_carried_out(order, envelope):
            self._require_fitting(order)
            with self.sealing().queues.work(order.model).turn():
                target = self._require_target(guarded, order)
        with self.sealing().queues.decisions.turn():
            if not self._is_carried_out(order, envelope):
                self._require_fitting(order)
                persons = self._require_ordered_still(order, envelope)
                evidence = self._require_still(target, guarded, order)
                ledger_drafts.note_rollback(self.journal, order, envelope, persons, evidence)
            self._require_held(order)
            if self.beneath.aliases(order.model).get(order.alias) != order.to_version:
                self.beneath.set_alias(order.model, order.alias, order.to_version)
            return self.journal.end()

    def mark_revoked(self, manifest: str = "") -> int:
        """Have every version of a revoked adapter (or of all of them) say so in MLflow; how many did not yet."""
        state, models = self.journal.state(), self.watch.names().models
        with self.sealing().queues.decisions.turn():
            return mark_all(self.beneath, state, models, manifest)

    def _is_carried_out(self, order: Rollback, envelope: bytes) -> bool:
        """Whether the ledger's last word about the alias is this order."""
        return self.journal.state().moved_by.get((order.model, order.alias)) == sha256(envelope)

    def _require_bounded(self, admission: Admission) -> None:
        """What is new ends with the first of all that it rests on; what was admitted by an earlier release need not."""
        if admission.examined.evidence_sha256 not in self.journal.state().admitted:
            require_bounded(admission.examined)

    def _foreseen(self, outline: Outline, guarded: GuardedModel) -> Admission:
        """Judge a proposal by its evidence; a refusal of what somebody who may decide has signed is written down."""
        court, envelope = self.court(), _envelope(outline.directory)
        try:
            return foresee(outline, court, guarded, self.journal.votes(sha256(envelope)))
        except (EvidenceInvalid, PolicyDenied) as error:
            keys = court.trust.keys_of("decide")
            if as_signed(outline.directory, keys, expected_files(outline, keys)):
                ledger_drafts.note_refused(self.journal, envelope, guarded, error)
            raise

    def _sealed_already(self, foreseen: Admission) -> Admitted | None:
        """The ledger's entry about this evidence, if its files lie there as far as can be told without reading them."""
        found = self.journal.state().admitted.get(foreseen.examined.evidence_sha256)
        if found is None:
            return None
        try:
            with self._outlined(Kept.of(found).sealed):
                return found
        except EvidenceInvalid:  # sealing it again completes it, or says what is wrong
            return None

    def _sealed(self, model: Any, guarded: GuardedModel, most: int) -> Any:
        """The version of a proposal that is fetched, judged and sealed; nobody else's decision waits for that."""
        tree = self.sealing()
        with tree.staging() as place:
            try:
                proposed_files.fetch(model, place, most)
                admission = self._judged(place, guarded)
            except EvidenceInvalid:
                self._remember_fake(str(model.model_id))
                raise
            kept = Kept(tree.keep(place, admission.examined.files), str(model.model_id))
        with tree.queues.decisions.turn():
            votes = self.journal.votes(admission.examined.evidence_sha256)
            still = judge(admission.examined, self.court(), guarded, votes)
            self._require_bounded(still)
            ledger_drafts.note_admitted(self.journal, still, kept)
            return self._version(still)

    def _remember_fake(self, model_id: str) -> None:
        """What its evidence admits and its bytes do not: it may be asked for again, but not in its model's queue."""
        if len(self._fakes) >= MOST_FAKES:
            self._fakes.clear()
        self._fakes.add(model_id)

    def _require_same(self, model: Any, guarded: GuardedModel, most: int) -> None:
        """Another logged model under admitted evidence: read whole, for nothing new, so nobody waits for it."""
        unchanged()
        tree = self.sealing()
        with tree.queues.again.turn(), tree.staging() as place:
            proposed_files.fetch(model, place, most)
            self._judged(place, guarded)

    def _finished(self, found: Admitted) -> Any:
        """The version of evidence that was admitted already: the one that is there, or made of what is sealed."""
        admission = self.judge(found, self.journal.votes(found.evidence))
        admission.require_approved()
        version = self._version_of(found)
        if version is not None and _is_as_made(version, admission, found):
            unchanged()
            return version
        guarded = self.guarded_model(found.model)
        with self.sealing().queues.work(found.model).turn():
            admission = self._whole(Kept.of(found).sealed, guarded, found.alias)
            with self.sealing().queues.decisions.turn():
                return self._version(self._still(admission, guarded, found.alias))

    def _judged(self, place: Path, guarded: GuardedModel) -> Admission:
        """Judge a proposal, whole; a refusal of what somebody who may decide has signed, file by file, is noted."""
        court, files = self.court(), manifest(place)
        envelope = _envelope(place)
        votes = self.journal.votes(sha256(envelope))
        try:
            return admit(place, court, guarded, votes, files=files)
        except (EvidenceInvalid, PolicyDenied) as error:
            if as_signed(place, court.trust.keys_of("decide"), files):
                ledger_drafts.note_refused(self.journal, envelope, guarded, error)
            raise

    @contextmanager
    def _outlined(self, sealed: str) -> Iterator[Outline]:
        """The evidence of a sealed adapter, all of whose files are there and of their sizes."""
        with self.sealing().outlined(sealed) as outline:
            files = expected_files(outline, self.court().trust.keys_of("decide"))
            require_exact(sealed, manifest_digest(files))
            yield outline

    def _whole(self, sealed: str, guarded: GuardedModel, alias: str, court: Court | None = None) -> Admission:
        """A sealed adapter judged after every byte of it was hashed; not to be asked while decisions wait."""
        with self.sealing().opened(sealed) as place:
            files = manifest(place)
            require_exact(sealed, manifest_digest(files))
            votes = self.journal.votes(sha256(_envelope(place)))
            return admit(place, court or self.court(), guarded, votes, alias, files)

    def _still(self, admission: Admission, guarded: GuardedModel, alias: str) -> Admission:
        """What was judged a moment ago, by what the trust file, the ledger and the clock say now; approved."""
        votes = self.journal.votes(admission.examined.evidence_sha256)
        still = judge(admission.examined, self.court(), guarded, votes, alias)
        still.require_approved()
        return still

    def _stands_at(self, found: Admitted, version: str) -> bool:
        """Whether nothing is left to move; what could not move there is refused, before anything is read."""
        state, current = self.journal.state(), self.beneath.aliases(found.model).get(found.alias)
        stands = state.stands.get((found.model, found.alias))
        if stands is None or not stands.is_at(version, found):
            self._require_later(found, version, current, state)
            return False
        return current == version

    def _version_of(self, found: Admitted) -> Any:
        """The version that stands for admitted evidence, if there is one.

        Not one whose number the ledger names for other evidence; one that it names for this comes first.
        """
        state, name, location = self.journal.state(), found.model, sealed_uri(f"sealed/{Kept.of(found).sealed}")
        there = [v for v in self.beneath.versions_at(name, location) if state.may_name(name, str(v.version), found)]
        return min(there, key=lambda version: (name, str(version.version)) not in state.named, default=None)

    def _version(self, admission: Admission) -> Any:
        """The version of sealed, admitted, approved evidence; the one that is there, or a new one.

        Where rows were lost, numbers go on after the last one that the ledger names.
        """
        admission.require_approved()
        state = self.journal.state()
        found = ledger_drafts.admitted(state, admission.examined.evidence_sha256)
        if (version := self._version_of(found)) is not None:
            self._mend(version, admission)
            return version
        kept, above = Kept.of(found), state.last_number.get(found.model, 0)
        run_id, location = proposed_files.origin(kept.model_id).run_id or None, sealed_uri(f"sealed/{kept.sealed}")
        return self.beneath.make_version(found.model, location, run_id, _tags(admission, kept.model_id), above)

    def _mend(self, version: Any, admission: Admission) -> None:
        """The tags and the description of a version that holds this evidence are the server's own, whoever wrote."""
        found = ledger_drafts.admitted(self.journal.state(), admission.examined.evidence_sha256)
        wanted = _tags(admission, Kept.of(found).model_id)
        self.beneath.mend(found.model, str(version.version), wanted)

    def _move(self, admission: Admission, version: str) -> None:
        """Write the move down, then move; nothing where the alias is there already, at this very evidence."""
        state = self.journal.state()
        found = ledger_drafts.admitted(state, admission.examined.evidence_sha256)
        name, alias = found.model, found.alias
        current, stands = self.beneath.aliases(name).get(alias), state.stands.get((name, alias))
        if stands is None or not stands.is_at(version, found):
            self._require_later(found, version, current, state)
            ledger_drafts.note_promotion(self.journal, admission, version)
        if current != version:
            self.beneath.set_alias(name, alias, version)

    def _require_later(self, found: Admitted, version: str, current: str | None, state: LedgerState) -> None:
        """A step forward by the ledger; where that never moved the alias, later than what it points at."""
        ledger_drafts.require_forward(found, version, state)
        if (found.model, found.alias) not in state.stands and not int(version) > int(current or 0):
            raise EvidenceInvalid(
                f"{found.model}@{found.alias} points at version {current}; moving it to {version} is no step forward",
                expected="a later version",
                next_step="guardrail registry rollback, signed by who may approve",
            )

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
        ledger_drafts.require_unmoved(order, self.journal.state())

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

    def _require_target(self, guarded: GuardedModel, order: Rollback) -> Admission:
        """The target is sealed, admitted and approved, or was, where expired evidence only warns.

        Every byte is read, but only of what the evidence alone does not refuse.
        """
        found = held(self.beneath.version(order.model, order.to_version), self.journal.state())
        sealed = Kept.of(found).sealed
        with self._outlined(sealed) as outline:
            _require_same_evidence(outline, found)
            court, votes = self._court_of(guarded, order, found), self.journal.votes(found.evidence)
            _require_ordered(foresee(outline, court, guarded, votes, order.alias), order)
        return self._whole(sealed, guarded, order.alias, self._court_of(guarded, order, found))

    def _require_still(self, target: Admission | None, guarded: GuardedModel, order: Rollback) -> str:
        """The target as it was read a moment ago holds now; its evidence."""
        if target is None:
            raise EvidenceInvalid("the alias has moved meanwhile", next_step="sign a new order")
        evidence = target.examined.evidence_sha256
        found = self.journal.state().admitted[evidence]
        court, votes = self._court_of(guarded, order, found), self.journal.votes(evidence)
        _require_ordered(judge(target.examined, court, guarded, votes, order.alias), order)
        return evidence

    def _require_ordered_still(self, order: Rollback, envelope: bytes) -> tuple[str, ...]:
        """Who ordered it, by the trust file and the clock now: the target was read since that was asked first."""
        court = self.court()
        needed = protected_alias(exactly_guarded(court.trust, order.model), order.alias).approvals
        return orders.verified(envelope, court.trust, persons=needed, now=court.now)[1]

    def _court_of(self, guarded: GuardedModel, order: Rollback, found: Admitted) -> Court:
        """Now, or, where expired evidence only warns, when the evidence was last found to hold."""
        court = self.court()
        if protected_alias(exactly_guarded(court.trust, guarded.name), order.alias).when_invalid == "warn":
            return Court(court.trust, court.state, court.state.held[found.evidence])
        return court


def _require_ordered(admission: Admission, order: Rollback) -> None:
    """Enough persons agreed to what the order moves to, and it is the adapter that the order names."""
    admission.require_approved()
    if admission.examined.decision.manifest != order.manifest:
        raise EvidenceInvalid(
            f"the order is about the adapter {order.manifest}",
            expected=f"{admission.examined.decision.manifest}, which is version {order.to_version}",
            next_step="sign a new order",
        )


def _require_for(found: Admitted, alias: str) -> None:
    if found.alias != alias:
        raise EvidenceInvalid(f"the evidence is for the alias {found.alias!r}", expected=repr(alias))


def _require_same_evidence(outline: Outline, found: Admitted) -> None:
    """What lies where the ledger says is the evidence that it admitted."""
    evidence = sha256(_envelope(outline.directory))
    if evidence != found.evidence:
        raise EvidenceInvalid(
            f"the evidence at sealed/{Kept.of(found).sealed} is {evidence}",
            expected=f"{found.evidence}, as admitted",
            next_step="guardrail registry doctor",
        )


def _is_as_made(version: Any, admission: Admission, found: Admitted) -> bool:
    """Whether a version says what the server wrote, and nothing else."""
    ours = {key: value for key, value in version.tags.items() if key.startswith(PREFIX)}
    return ours == _tags(admission, Kept.of(found).model_id) and not version.description


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
