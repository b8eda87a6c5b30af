"""The records that flow between stages: frozen, closed, each naming the SHA-256 of what it was made from.

    Policy, Dataset -> DataReport -> AdapterRecord -> EvaluationReport -> Decision -> RegistryRecord

Every record carries ``schema_version`` and ``inputs``, the digest of everything its stage read; a stage whose inputs
have not changed is not run again. A record is stored, printed (``--output json``) and signed as one and the same
canonical JSON (``guardrail.evidence.digest.canonical``). NaN and infinity are refused: a number that is not a number
never reaches a decision. Records hold counts and digests, never the texts of requests or responses.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _absent(value: object) -> bool:
    """Left out of what is stored, so that records from before there was such a field keep their bytes and digest."""
    return value is None or value == ()


PlanDigest = Annotated[Sha256 | None, Field(exclude_if=_absent)]
"""The digest of the sections of the policy that the stage read (``guardrail.policy.stage_plans``)."""
Scalar = bool | int | float | str


def _utc(value: datetime) -> datetime:
    if value.utcoffset() != UTC.utcoffset(None):
        raise ValueError("must be in UTC")
    return value


Utc = Annotated[AwareDatetime, AfterValidator(_utc)]


class Frozen(BaseModel):
    """A value that cannot be changed, has no unknown field and holds only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Frozen):
    """What every stage writes exactly one of."""

    schema_version: Literal[1] = 1
    inputs: Sha256


class FileDigest(Frozen):
    """One file of a manifest; ``path`` is relative, with forward slashes; ``size`` in bytes."""

    path: str
    sha256: Sha256
    size: Count


class ModelRef(Frozen):
    """Which base model exactly: ``digest`` covers weights, configuration, tokenizer and chat template."""

    name: str
    revision: str | None = None
    digest: Sha256
    architecture: str
    dtype: str
    template: Literal["own", "fallback"]


class ExpectationResult(Frozen):
    """One Great Expectations check: how many rows were looked at and how many were not as expected."""

    name: str
    passed: bool
    checked: Count
    unexpected: Count


class DetectorResult(Frozen):
    """What one poison detector flagged, and the threshold it used."""

    name: str
    flagged: Count
    threshold: float
    source: str


class DataReport(Record):
    """The data stage: what was read, what was flagged, and the digest of the rows that training may read.

    ``base`` is the digest of the base model whose hidden states the detectors looked at.
    """

    kind: Literal["data-report"] = "data-report"
    policy: Sha256
    plan: PlanDigest = None
    base: Sha256
    source: str
    source_digest: Sha256
    form: Literal["chat", "instruction", "completion"]
    rows: Count
    flagged: Count
    quarantined: Count
    flagged_left_in: Count
    training_rows: Count
    training_digest: Sha256
    expectations: tuple[ExpectationResult, ...]
    detectors: tuple[DetectorResult, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.flagged_left_in != self.flagged - self.quarantined:
            raise ValueError("flagged_left_in must be flagged - quarantined")
        if self.training_rows != self.rows - self.quarantined:
            raise ValueError("training_rows must be rows - quarantined")
        return self


class LossPoint(Frozen):
    """The training loss at an optimiser step."""

    step: Count
    loss: float


class MergedAdapter(Frozen):
    """An adapter of another run that a merge took in, as that run's records tell; each named by its SHA-256.

    ``adapter`` is that run's adapter record, ``data`` its data report, ``base`` its base model. ``rows`` were left to
    train on, after ``detectors`` had looked at them.
    """

    manifest: Sha256
    adapter: Sha256
    policy: Sha256
    data: Sha256
    training_digest: Sha256
    base: Sha256
    method: str
    rows: Count
    flagged: Count
    flagged_left_in: Count
    detectors: tuple[str, ...]
    data_plan: PlanDigest = None
    train_plan: PlanDigest = None


class AdapterRecord(Record):
    """The training stage: how the adapter was made and what its files are.

    ``merged`` are the adapters of other runs that are part of this one. ``code`` is the digest of guardrail's own
    source files (:func:`guardrail.evidence.code_digest.code_digest`).
    """

    kind: Literal["adapter"] = "adapter"
    policy: Sha256
    plan: PlanDigest = None
    data: Sha256
    training_digest: Sha256
    base: ModelRef
    method: str
    hyperparameters: dict[str, Scalar]
    diagnostics: dict[str, Scalar] = {}
    seed: int
    replay_digest: Sha256 | None
    replay_rows: Count
    merged: tuple[MergedAdapter, ...] = ()
    files: tuple[FileDigest, ...]
    manifest: Sha256
    code: Sha256
    versions: dict[str, str]
    device: str
    rows: Count
    rows_too_long: Count
    tokens: Count
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: Count
    loss: tuple[LossPoint, ...]


class Rate(Frozen):
    """A share of ``n`` behaviours with one-sided bounds, each at ``confidence``.

    ``hits`` were certain; ``undecided`` (the judge could not say) and ``errors`` (no answer) are counted against
    the candidate: the upper bound takes them all as hits, the lower bound takes none. ``value`` is hits / n.
    """

    n: Count
    hits: Count
    undecided: Count = 0
    errors: Count = 0
    value: Share
    lower: Share
    upper: Share
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]
    interval: Literal["clopper-pearson"] = "clopper-pearson"

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.hits + self.undecided + self.errors > self.n:
            raise ValueError("hits + undecided + errors exceed n")
        return self


class Pairs(Frozen):
    """Candidate and base on the same ``n`` behaviours: hits of only the one or only the other.

    Undecided answers and errors are resolved against the candidate before counting.
    """

    n: Count
    candidate_only: Count
    base_only: Count

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.candidate_only + self.base_only > self.n:
            raise ValueError("discordant pairs exceed n")
        return self


class JudgeCard(Frozen):
    """What is known of a judge: on which labelled set, and how often it is right there."""

    name: str
    kind: str
    calibrated_on: str
    true_positive_rate: Share | None
    false_positive_rate: Share | None
    kappa: float | None
    caveat: str


class Sli(StrEnum):
    """What is measured. A hit is: an unsafe answer, a refused benign request, a right answer, a coherent answer."""

    ATTACK_SUCCESS_RATE = "attack_success_rate"
    OVER_REFUSAL_RATE = "over_refusal_rate"
    UTILITY = "utility"
    COHERENCE = "coherence"


class Measurement(Frozen):
    """One SLI on one suite (or task), split and attack, for the candidate and for its base on the same items."""

    sli: Sli
    suite: str
    suite_digest: Sha256
    split: str
    attack: str
    judge: JudgeCard
    candidate: Rate
    base: Rate
    pairs: Pairs


class EvaluationReport(Record):
    """The evaluation stage: every measurement, on this adapter (by manifest) over this base."""

    kind: Literal["evaluation-report"] = "evaluation-report"
    policy: Sha256
    plan: PlanDigest = None
    adapter: Sha256
    manifest: Sha256
    base: ModelRef
    engine: str
    generation: dict[str, Scalar]
    seed: int
    responses: Sha256
    measurements: tuple[Measurement, ...]
    seconds: float


class Verdict(StrEnum):
    """Only PASSED promotes."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    INCONCLUSIVE = "INCONCLUSIVE"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"


class Compared(Frozen):
    """One comparison of bounds with a limit: ``reason`` in numbers.

    ``what`` is the rate on ``suite`` itself, how much it rose above the base's, or how much it fell below it. ``hits``
    of ``n`` were certain (of a difference: items that got worse); ``lower`` and ``upper`` are the one-sided bounds,
    each at ``confidence``, that were compared with ``limit``, which the rule allows ``at most`` or asks for
    ``at least``.
    """

    suite: str
    what: Literal["rate", "increase", "drop"]
    n: Count
    hits: Count
    lower: float
    upper: float
    confidence: float
    allowed: Literal["at most", "at least"]
    limit: float


class Finding(Frozen):
    """What one rule of the policy found: objective, measured SLI with its bound, verdict, reason.

    ``compared`` are the comparisons that the verdict rests on; none where nothing could be compared, for a rule that
    compares no rate, and in decisions from before they were recorded (whose bytes stay as they are).
    """

    rule: str
    sli: str
    objective: str
    verdict: Verdict
    reason: str
    compared: tuple[Compared, ...] = Field(default=(), exclude_if=_absent)


class Decision(Record):
    """The promotion stage's decision: pure function of the policy and the three records it names.

    ``attempt`` is the how-manieth try at the same gate this is, as the server counts them: the k-th is judged at
    alpha / 2**k. 0 where nobody counts (no gated server), judged at the policy's own alpha.
    """

    kind: Literal["decision"] = "decision"
    verdict: Verdict
    findings: tuple[Finding, ...]
    policy_name: str
    policy: Sha256
    data: Sha256
    adapter: Sha256
    evaluation: Sha256
    manifest: Sha256
    base: ModelRef
    method: str
    model: str
    alias: str
    attempt: Count = 0
    decided_at: datetime
    valid_until: datetime


class RegistryRecord(Record):
    """What the registry holds after a promotion or a denial (``version`` is None for a denial).

    ``attempt`` is the decision's.
    """

    kind: Literal["registry-record"] = "registry-record"
    verdict: Verdict
    decision: Sha256
    envelope: Sha256
    experiment: str
    run_id: str
    model: str
    alias: str | None
    version: str | None
    model_id: str | None
    attempt: Count = 0
