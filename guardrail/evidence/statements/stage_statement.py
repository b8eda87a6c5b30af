"""What each stage signs for itself: an in-toto statement that binds its record to one candidate and one target.

    data      the dataset                       by whoever prepared it
    train     the adapter made from it          by the training pipeline
    evaluate  what was measured on the adapter  by the evaluation job
    approve   a person's yes or no              by that person

The subject is the dataset (``data``) or the adapter's manifest (the others). ``after`` is the SHA-256 of the envelope
of the stage before, so that the four make a chain. A stage states what it knows: the first may know no adapter yet.
Not covered: whether stages agree and who signed them (``evidence/chain/stage_chain.py``), and whether what they say is
true.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, cast

from pydantic import Field, StringConstraints, model_validator

from guardrail.evidence.digest import GENESIS
from guardrail.evidence.statements.intoto import StatementForm, make, read, write
from guardrail.names import Alias, ModelName
from guardrail.records import Frozen, ModelRef, Sha256, Utc

Stage = Literal["data", "train", "evaluate", "approve"]
STAGES: tuple[Stage, ...] = ("data", "train", "evaluate", "approve")
PREFIX, SUFFIX = "urn:mlflow-guardrail:", ":v1"

PredicateType = Literal[
    "urn:mlflow-guardrail:data:v1",
    "urn:mlflow-guardrail:train:v1",
    "urn:mlflow-guardrail:evaluate:v1",
    "urn:mlflow-guardrail:approve:v1",
]
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,128}$")]


class SuiteDigest(Frozen):
    """A suite that was measured, by its name and digest."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    digest: Sha256


class Binding(Frozen):
    """What a statement is about; the stages of one candidate agree in all of it.

    ``base`` names revision, dtype and template; ``dataset`` is the digest of the rows that training read; ``judges`` of
    the judges' cards, ``waivers`` of the waivers in force (None: there are none), both as canonical JSON. ``nonce`` was
    issued by the server for this candidate, in hexadecimal.
    """

    model: ModelName
    alias: Alias
    policy: Sha256
    nonce: Nonce
    base: ModelRef
    dataset: Sha256
    manifest: Sha256 | None = None
    suites: tuple[SuiteDigest, ...] = ()
    judges: Sha256 | None = None
    waivers: Sha256 | None = None


class Approval(Frozen):
    """A person's yes or no, and why."""

    approved: bool
    reason: Annotated[str, StringConstraints(max_length=4000)] = ""


class StagePredicate(Frozen):
    """What a stage says. It holds from ``not_before`` until ``expires`` (UTC).

    ``record`` is the digest of the stage's record (for ``approve``: of the evaluation report); ``after`` of the stage's
    envelope before; ``ledger`` of the ledger's head when this was signed (64 zeros: none was known).
    """

    schema_version: Literal[1] = 1
    bound: Binding
    record: Sha256
    after: Sha256 | None = None
    ledger: Sha256 = GENESIS
    not_before: Utc
    expires: Utc
    approval: Approval | None = None


class StageStatement(StatementForm):
    """One in-toto Statement v1 of a stage."""

    predicate_type: PredicateType = Field(alias="predicateType")
    predicate: StagePredicate

    @property
    def stage(self) -> Stage:
        """Which stage speaks."""
        return cast(Stage, self.predicate_type.removeprefix(PREFIX).removesuffix(SUFFIX))

    @property
    def bound(self) -> Binding:
        """What it is about."""
        return self.predicate.bound

    @model_validator(mode="after")
    def _complete(self) -> Self:
        wrong = _wrong(self.stage, self.predicate, self.subjects)
        if wrong:
            raise ValueError(f"a statement of the stage {self.stage} {wrong}")
        return self


def build(stage: Stage, predicate: StagePredicate) -> bytes:
    """The canonical bytes of the stage's statement.

    Raises:
        pydantic.ValidationError: the stage must state something that is missing, or the other way round.
    """
    subjects = _subjects(stage, predicate.bound)
    return write(make(StageStatement, subjects, f"{PREFIX}{stage}{SUFFIX}", predicate))


def parse(payload: bytes) -> StageStatement:
    """Read a stage's statement back.

    Raises:
        EvidenceInvalid: not such a statement, incomplete, an unknown or repeated field, or not canonical bytes.
    """
    return read(payload, StageStatement)


def _subjects(stage: Stage, bound: Binding) -> dict[str, str]:
    return {"dataset": bound.dataset} if stage == "data" else {"adapter": bound.manifest or ""}


def _wrong(stage: Stage, predicate: StagePredicate, subjects: dict[str, str]) -> str:
    """What a statement of this stage lacks or must not have; empty where it is whole."""
    bound, names = predicate.bound, [suite.name for suite in predicate.bound.suites]
    measured = stage in ("evaluate", "approve")
    rules = {
        "is about another subject than it binds": subjects == _subjects(stage, bound),
        "must name the envelope before, and only the first stage must not": (predicate.after is None)
        == (stage == "data"),
        "must say yes or no, and only an approval must": (predicate.approval is not None) == (stage == "approve"),
        "must bind the suites that were measured": bool(names) or not measured,
        "must bind the cards of the judges": bound.judges is not None or not measured,
        "names a suite twice or out of order": names == sorted(set(names)),
        "expires before it begins": predicate.not_before < predicate.expires,
    }
    return next((text for text, holds in rules.items() if not holds), "")
