"""Records for tests of policies and reports: whole, consistent chains from a few counts. Not a test file.

Not covered: real stages. What these records say was never measured; only their arithmetic and bindings are true.
"""

from __future__ import annotations

from repository import ROOT

from guardrail.evidence.digest import digest, manifest_digest, sha256
from guardrail.model.files import base_digest
from guardrail.policy.intervals import lower_bound, upper_bound
from guardrail.policy.rules import Evidence
from guardrail.policy.schema import GenerationPlan
from guardrail.records import (
    AdapterRecord,
    DataReport,
    DetectorResult,
    EvaluationReport,
    ExpectationResult,
    FileDigest,
    JudgeCard,
    LossPoint,
    Measurement,
    MergedAdapter,
    ModelRef,
    Pairs,
    Rate,
    Sli,
)
from guardrail.testbed import WEIGHTS

POLICIES = ROOT / "policies"
BASE = ModelRef(
    name="testbed", digest=base_digest(WEIGHTS), architecture="LlamaForCausalLM", dtype="float32", template="own"
)
GOOD = (Sli.UTILITY, Sli.COHERENCE)


def rate(hits: int, n: int, undecided: int = 0, errors: int = 0, confidence: float = 0.95) -> Rate:
    """A rate whose value and bounds follow from its counts."""
    return Rate(
        n=n,
        hits=hits,
        undecided=undecided,
        errors=errors,
        value=hits / n if n else 0.0,
        lower=lower_bound(hits, n, confidence),
        upper=upper_bound(hits + undecided + errors, n, confidence),
        confidence=confidence,
    )


def pairs(sli: Sli, candidate: Rate, base: Rate, both: int | None = None) -> Pairs:
    """Pairs that agree with the rates; ``both`` hits are shared (as many as possible where not given)."""
    mine, other = candidate.hits, base.hits
    if sli in GOOD:
        other += base.undecided + base.errors
    else:
        mine += candidate.undecided + candidate.errors
    shared = min(mine, other) if both is None else both
    return Pairs(n=candidate.n, candidate_only=mine - shared, base_only=other - shared)


def measurement(
    sli: Sli,
    suite: str,
    candidate: Rate,
    base: Rate,
    *,
    attack: str = "direct",
    judge: str = "refusal",
    split: str = "gate",
    both: int | None = None,
) -> Measurement:
    """One measurement with consistent pairs."""
    card = JudgeCard(
        name=judge,
        kind="rule",
        calibrated_on="",
        true_positive_rate=None,
        false_positive_rate=None,
        kappa=None,
        caveat="made up for tests",
    )
    return Measurement(
        sli=sli,
        suite=suite,
        suite_digest=sha256(suite.encode()),
        split=split,
        attack=attack,
        judge=card,
        candidate=candidate,
        base=base,
        pairs=pairs(sli, candidate, base, both),
    )


def data_report(policy: str, *, flagged: int = 40, left_in: int = 0) -> DataReport:
    """1,000 rows of which ``flagged`` were flagged by both detectors."""
    quarantined = flagged - left_in
    return DataReport(
        inputs=sha256(b"data inputs"),
        policy=policy,
        base=BASE.digest,
        source="train.jsonl",
        source_digest=sha256(b"train.jsonl"),
        form="chat",
        rows=1000,
        flagged=flagged,
        quarantined=quarantined,
        flagged_left_in=left_in,
        training_rows=1000 - quarantined,
        training_digest=sha256(f"rows {quarantined}".encode()),
        expectations=(ExpectationResult(name="not_empty", passed=True, checked=1000, unexpected=0),),
        detectors=tuple(
            DetectorResult(name=name, flagged=flagged, threshold=0.8, source="test")
            for name in ("known_harm", "harmful_compliance")
        ),
    )


def adapter_record(policy: str, data: DataReport, *, method: str = "der") -> AdapterRecord:
    """An adapter of two files, trained on the rows of ``data``."""
    files = (
        FileDigest(path="adapter_config.json", sha256=sha256(b"config"), size=700),
        FileDigest(path="adapter_model.safetensors", sha256=sha256(method.encode()), size=120_000),
    )
    return AdapterRecord(
        inputs=sha256(b"training inputs"),
        policy=policy,
        data=digest(data),
        training_digest=data.training_digest,
        base=BASE,
        method=method,
        hyperparameters={"alpha": 5.0, "rank": 8, "learning_rate": 0.0005},
        seed=0,
        replay_digest=sha256(b"replay") if method != "finetune" else None,
        replay_rows=400 if method != "finetune" else 0,
        files=files,
        manifest=manifest_digest(files),
        code=sha256(b"code"),
        versions={"mlflow-guardrail": "0.1.0", "peft": "0.21.2", "torch": "2.13.0", "transformers": "5.23.0"},
        device="cpu",
        rows=data.training_rows,
        rows_too_long=0,
        tokens=48_000,
        seconds=31.5,
        tokens_per_second=1523.8,
        peak_memory_bytes=600_000_000,
        loss=(LossPoint(step=1, loss=3.2), LossPoint(step=60, loss=0.4)),
    )


def merged_adapter(
    policy: str,
    *,
    method: str = "der",
    flagged: int = 7,
    left_in: int = 0,
    detectors: tuple[str, ...] = ("known_harm", "harmful_compliance"),
) -> MergedAdapter:
    """The adapter of another run on the same base, under the policy with this digest."""
    return MergedAdapter(
        manifest=sha256(f"other files {method} {left_in}".encode()),
        adapter=sha256(b"other adapter"),
        policy=policy,
        data=sha256(b"other data"),
        training_digest=sha256(b"other rows"),
        base=BASE.digest,
        method=method,
        rows=500,
        flagged=flagged,
        flagged_left_in=left_in,
        detectors=detectors,
    )


def merging(evidence: Evidence, *merged: MergedAdapter) -> Evidence:
    """The same chain, had these adapters been merged in."""
    assert evidence.adapter is not None
    assert evidence.evaluation is not None
    adapter = evidence.adapter.model_copy(update={"merged": merged})
    evaluation = evidence.evaluation.model_copy(update={"adapter": digest(adapter)})
    return evidence.model_copy(update={"adapter": adapter, "evaluation": evaluation})


def evaluation_report(policy: str, adapter: AdapterRecord, measurements: tuple[Measurement, ...]) -> EvaluationReport:
    """The report of ``measurements`` on ``adapter``."""
    return EvaluationReport(
        inputs=sha256(b"evaluation inputs"),
        policy=policy,
        adapter=digest(adapter),
        manifest=adapter.manifest,
        base=adapter.base,
        engine="transformers",
        generation=GenerationPlan().recorded,
        seed=0,
        responses=sha256(b"responses"),
        measurements=measurements,
        seconds=42.0,
    )


def safe_measurements(n: int = 400) -> tuple[Measurement, ...]:
    """What an adapter that kept its safety shows on the testbed's suites and one task."""
    return (
        measurement(Sli.ATTACK_SUCCESS_RATE, "harmful", rate(1, n), rate(0, n)),
        measurement(Sli.ATTACK_SUCCESS_RATE, "harmful", rate(n - 4, n), rate(n, n), attack="prefill"),
        measurement(Sli.OVER_REFUSAL_RATE, "benign", rate(2, n), rate(1, n)),
        measurement(Sli.UTILITY, "sentiment", rate(n * 97 // 100, n), rate(n // 2, n), attack="", judge="label"),
        measurement(Sli.COHERENCE, "benign", rate(n, n), rate(n, n), judge="coherence"),
    )


def forgetful_measurements(n: int = 400) -> tuple[Measurement, ...]:
    """The same for an adapter that forgot its safety."""
    direct = measurement(Sli.ATTACK_SUCCESS_RATE, "harmful", rate(n * 92 // 100, n), rate(0, n))
    return (direct, *safe_measurements(n)[1:])


def chain(
    policy: str,
    *,
    method: str = "der",
    measurements: tuple[Measurement, ...] | None = None,
    flagged: int = 40,
    left_in: int = 0,
) -> Evidence:
    """Three records bound to one another and to the policy with the digest ``policy``."""
    data = data_report(policy, flagged=flagged, left_in=left_in)
    adapter = adapter_record(policy, data, method=method)
    found = safe_measurements() if measurements is None else measurements
    return Evidence(data=data, adapter=adapter, evaluation=evaluation_report(policy, adapter, found))
