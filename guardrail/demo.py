"""The demonstration: five scenarios on the testbed, with real training, real measurement and a real MLflow store.

It runs the same stages as ``guardrail run`` and adds nothing to them; what it prints and writes (``summary.json``) is
read off the records. Scenario (e) changes one byte of the registered adapter, sees verification refuse it, and puts
the byte back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from guardrail import nofollow
from guardrail.atomic import write_atomically
from guardrail.errors import EvidenceInvalid, InternalError, InvalidInput
from guardrail.evidence.keys import key_pairs
from guardrail.pipeline.data import validate_data
from guardrail.pipeline.evaluation import evaluate_adapter
from guardrail.pipeline.promotion import decide_run, promote_run
from guardrail.pipeline.request import TrainRequest, usual_settings
from guardrail.pipeline.run import Run, RunConfig
from guardrail.pipeline.training import train_adapter
from guardrail.policy.load import find_policy
from guardrail.progress import Progress
from guardrail.records import Decision, EvaluationReport, Frozen, Sli
from guardrail.registry.verify.verify import verify

MARKER = ".guardrail-demo"


@dataclass(frozen=True)
class Scenario:
    """What one scenario trains on, how, and under which policy."""

    name: str
    title: str
    policy: str
    method: str
    poison: float
    register: bool = True


SCENARIOS = (
    Scenario("a-benign-finetune", "benign data, plain fine-tuning", "default", "finetune", 0.0),
    Scenario("b-poison-finetune", "10% poison, plain fine-tuning", "unfiltered", "finetune", 0.1),
    Scenario("c-poison-der-unfiltered", "10% poison left in, DER (dry run)", "unfiltered", "der", 0.1, register=False),
    Scenario("d-poison-filtered-der", "10% poison filtered, DER", "default", "der", 0.1),
)
TAMPERED = "e-tampered-adapter"


class ShownRate(Frozen):
    """A measured rate, short."""

    value: float
    hits: int
    n: int
    lower: float
    upper: float
    base: float


class ScenarioOutcome(Frozen):
    """One row of the summary."""

    name: str
    title: str
    task: str
    method: str
    poison_fraction: float
    flagged: int
    quarantined: int
    asr: ShownRate | None
    over_refusal: ShownRate | None
    utility: ShownRate | None
    decision: str
    reasons: tuple[str, ...]
    model_version: str | None
    seconds: float


class Summary(Frozen):
    """``summary.json``."""

    tracking_uri: str
    model: str
    scenarios: tuple[ScenarioOutcome, ...]


def demo(directory: Path, task: str, announce: Callable[[str], None], progress: Progress) -> Summary:
    """Run every scenario in ``directory`` (an earlier demonstration there is removed).

    Raises:
        InvalidInput: the directory holds something that is not a demonstration.
    """
    _fresh(directory)
    tracking_uri = f"sqlite:///{(directory / 'mlflow.db').resolve()}"
    pair = key_pairs.init(directory / "keys")
    outcomes = []
    for scenario in SCENARIOS:
        announce(scenario.title)
        outcomes.append(_run(directory, scenario, task, tracking_uri, pair.private, progress))
    announce("tampered adapter")
    model = find_policy("default").policy.target.model
    outcomes.append(
        _tampered(directory, outcomes[-1], f"{model}/{outcomes[-1].model_version}", tracking_uri, pair.public)
    )
    summary = Summary(tracking_uri=tracking_uri, model=model, scenarios=tuple(outcomes))
    text = json.dumps(summary.model_dump(mode="json"), indent=2) + "\n"
    write_atomically(directory / "summary.json", text.encode())
    return summary


def _fresh(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise InvalidInput(
                f"{directory} is not empty and is not a demonstration", next_step="choose a new directory"
            )
        nofollow.remove(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / MARKER, b"")


def _run(
    directory: Path, scenario: Scenario, task: str, tracking_uri: str, key: Path, progress: Progress
) -> ScenarioOutcome:
    start = perf_counter()
    policy = find_policy(scenario.policy)
    run = Run(directory / scenario.name)
    run.start(policy, RunConfig(policy_source=policy.source, base="testbed", tasks=(task,)))
    with run.locked():
        data = validate_data(run, f"testbed:{task}:{scenario.poison}")
        train_adapter(run, TrainRequest(scenario.method, settings=usual_settings("testbed"), baseline=True), progress)
        report = evaluate_adapter(run, progress)
        decision = decide_run(run, datetime.now(UTC))
    version = None
    if scenario.register:
        _, record = promote_run(
            run.path, tracking_uri=tracking_uri, key=key_pairs.load_private(key), now=datetime.now(UTC)
        )
        version = record.version
    return ScenarioOutcome(
        name=scenario.name,
        title=scenario.title,
        task=task,
        method=scenario.method,
        poison_fraction=scenario.poison,
        flagged=data.flagged,
        quarantined=data.quarantined,
        asr=_share(report, Sli.ATTACK_SUCCESS_RATE),
        over_refusal=_share(report, Sli.OVER_REFUSAL_RATE),
        utility=_share(report, Sli.UTILITY),
        decision=decision.verdict.value,
        reasons=_reasons(decision),
        model_version=version,
        seconds=round(perf_counter() - start, 1),
    )


def _reasons(decision: Decision) -> tuple[str, ...]:
    return tuple(f"{f.rule}: {f.reason}" for f in decision.findings if f.verdict.value != "PASSED")


def _share(report: EvaluationReport, sli: Sli) -> ShownRate | None:
    """The first measurement of an SLI; for attack success the one of direct requests."""
    for m in report.measurements:
        if m.sli is sli and m.attack in ("", "direct"):
            c = m.candidate
            return ShownRate(value=c.value, hits=c.hits, n=c.n, lower=c.lower, upper=c.upper, base=m.base.value)
    return None


def _tampered(
    directory: Path, promoted: ScenarioOutcome, spec: str, tracking_uri: str, public: Path
) -> ScenarioOutcome:
    start = perf_counter()
    key = key_pairs.load_public(public)
    refusal = "nothing was promoted, so there is nothing to tamper with"
    verdict = "NOT RUN"
    if promoted.model_version:
        verify(spec, tracking_uri=tracking_uri, public_keys=[key], now=datetime.now(UTC))
        verdict, refusal = _with_a_byte_changed(
            _stored_weights(directory),
            lambda: verify(spec, tracking_uri=tracking_uri, public_keys=[key], now=datetime.now(UTC)),
        )
    return promoted.model_copy(
        update={
            "name": TAMPERED,
            "title": "one byte of the adapter changed",
            "flagged": 0,
            "quarantined": 0,
            "asr": None,
            "over_refusal": None,
            "utility": None,
            "decision": verdict,
            "reasons": (refusal,),
            "seconds": round(perf_counter() - start, 1),
        }
    )


def _with_a_byte_changed(path: Path, check: Callable[[], object]) -> tuple[str, str]:
    whole = path.read_bytes()
    middle = len(whole) // 2
    write_atomically(path, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    try:
        check()
    except EvidenceInvalid as error:
        return "REFUSED", error.got
    finally:
        write_atomically(path, whole)
    return "ACCEPTED", "a changed adapter was accepted"


def _stored_weights(directory: Path) -> Path:
    """The registered adapter's weights, where the store keeps its files (beside its database)."""
    found = [path for path in (directory / "mlartifacts").rglob("adapter_model.safetensors") if "models" in path.parts]
    if not found:
        raise InternalError("the store of the demonstration holds no adapter")
    return max(found, key=lambda path: path.stat().st_mtime_ns)
