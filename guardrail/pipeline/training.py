"""The training stage within a run: only with a method that the policy allows, unless asked to measure a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from guardrail import nofollow
from guardrail.data.dataset import load_dataset
from guardrail.errors import EvidenceInvalid, InvalidInput, PolicyDenied
from guardrail.evidence.digest import digest, manifest, manifest_digest
from guardrail.pipeline import resolve
from guardrail.pipeline.auto_method import AUTO, SHARE, Trial, allowed, choose, told
from guardrail.pipeline.data import clean_file
from guardrail.pipeline.exam.gate_plans import plan_all, task_names
from guardrail.pipeline.exam.leakage import check_replay, check_rows
from guardrail.pipeline.exam.validation import Validation, check_apart, chosen_by, plan_validation
from guardrail.pipeline.gate.signing import require_base_of_data
from guardrail.pipeline.live_training import Training, require_reachable, shown
from guardrail.pipeline.merge.merge_inputs import Wanted, check_left_in, keep, read_others
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.bases import require_pinned_base
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import training_method
from guardrail.records import AdapterRecord, DataReport, Scalar
from guardrail.registry.verify.adapter_config import require_fitting
from guardrail.samples import Sample
from guardrail.testbed import LEARNING_RATE
from guardrail.train import processes
from guardrail.train.early_stopping import check as check_early_stopping
from guardrail.train.methods import Measure, Method, create
from guardrail.train.observers import Observers
from guardrail.train.replay import require_prompts
from guardrail.train.stage import Given, Job, Lora, Origin, train
from guardrail.train.trainer import Settings

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainRequest:
    """What to train with; ``baseline`` allows a method that the policy forbids (it can be measured, not promoted).

    ``adapters`` are the directories of other runs, whose adapters a merge takes in. ``live_uri`` is the MLflow server
    or store that is shown the training while it goes on; it decides nothing.
    """

    method: str
    hyperparameters: dict[str, Scalar] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    lora: Lora = field(default_factory=Lora)
    replay: str | None = None
    baseline: bool = False
    adapters: tuple[Path, ...] = ()
    live_uri: str | None = None


def usual_settings(base: str) -> Settings:
    """How to train on ``base`` unless told otherwise: what moves billions of parameters hardly moves the testbed."""
    return Settings(learning_rate=LEARNING_RATE) if base == resolve.TESTBED else Settings()


def train_adapter(run: Run, request: TrainRequest, progress: Progress | None = None) -> AdapterRecord:
    """Run the training stage, or return its record if nothing changed.

    Raises:
        PolicyDenied: the policy forbids the method.
        EvidenceMissing: the data stage has not run.
        EvidenceInvalid: files are not those that were recorded, or the run has a ticket and the base is not loaded as
            it was for the data statement.
        InvalidInput: see :func:`guardrail.train.stage.train` and
        :func:`guardrail.pipeline.merge.merge_inputs.read_others`.
    """
    policy, config = run.policy(), run.config()
    if config is None:
        raise InvalidInput(f"{run.path} is not a run")
    check_method(policy, request)
    check_validated(policy, config, request)
    processes.wait()
    report = run.require("data-report", DataReport)
    rows = load_dataset(clean_file(run, report)).samples
    base = resolve.base_model(config.base, config.revision)
    require_pinned_base(policy, base.ref)
    if report.base != base.ref.digest:
        raise EvidenceInvalid(
            f"the data was looked at with another base than {config.base}",
            next_step="run guardrail data validate again, with this base",
        )
    require_base_of_data(run, base.ref)
    prompts = resolve.replay_prompts(request.replay, config.base)
    check_replay(policy, config, prompts if _replays(request) else ())
    check_rows(policy, config, rows)
    others = read_others(request.adapters, _wanted(policy, config, request, base, run.path))
    check_left_in(policy, others, report)
    inputs = _inputs(policy, report, base, request, prompts, others)
    inputs = _with_validation(inputs, policy, config, request)
    record = run.read("adapter", AdapterRecord)
    if record is not None and record.inputs == inputs:
        adapter_dir(run, record)
        return record
    require_reachable(request.live_uri)
    origin = Origin(inputs, policy.digest, digest(report), report.training_digest)
    target = run.path / "adapter"
    fresh = run.path / "adapter.partial"
    with processes.first_goes_first():
        nofollow.remove(fresh)
    work = run.path / "work"  # replay answers, teacher states, checkpoints: what a killed run goes on from
    with processes.first_goes_first():
        others = keep(others, work / "others")
    job = Job(request.method, request.hyperparameters, request.settings, request.lora, prompts,
              policy.policy.generation.max_new_tokens, others)  # fmt: skip
    start = _Start(base, rows, origin, _measure(policy, config, base, progress), progress)
    trials = _trials(start, job, policy, work / "trials") if job.method == AUTO else ()
    if trials:
        job = _chosen(job, trials[0].method)
    validate = Validation(policy, config, base, progress).live
    with shown(Training(inputs, job.method, config.base, job.settings), request.live_uri, work) as tell:
        record = start.train(job, fresh, work, Observers(validate, tell))
    record = record.model_copy(update={"diagnostics": {**record.diagnostics, **told(trials)}})
    if processes.is_first():
        nofollow.remove(target)
        fresh.rename(target)
        run.write("adapter", record)
        nofollow.remove(work)
    return record


def adapter_dir(run: Run, record: AdapterRecord) -> Path:
    """Where the adapter lies, checked against its record and against what any adapter may hold.

    Raises:
        EvidenceInvalid: its files are not those that were recorded, or not those of a plain LoRA for its base.
    """
    directory = run.path / "adapter"
    if not directory.is_dir() or manifest_digest(manifest(directory)) != record.manifest:
        raise EvidenceInvalid(
            f"{directory} is not the adapter that its record names",
            next_step=f"delete {run.path / 'adapter.json'} and train again",
        )
    require_fitting(directory, record.base, (file.path for file in record.files))
    return directory


def check_request(policy: LoadedPolicy, config: RunConfig, request: TrainRequest) -> None:
    """Refuse now what every later stage would refuse: method, hyperparameters, replay, suites and tasks.

    For one who runs all stages: suites that the policy withholds are asked for, too. :func:`train_adapter` does
    without them.

    Raises:
        PolicyDenied: the policy forbids the method.
        InvalidInput: the method, its replay prompts, a suite or a task are not there, no task is named, the gate asks
            what is replayed or validated on, or another run's adapter cannot be merged in.
        EvidenceInvalid: another run's records and files do not belong together.
        ServiceUnavailable: the server that is to show the training does not answer.
    """
    check_method(policy, request)
    check_validated(policy, config, request)
    require_reachable(request.live_uri)
    if _replays(request):
        prompts = resolve.replay_prompts(request.replay, config.base)
        if request.method != AUTO:
            require_prompts(prompts)
        check_replay(policy, config, prompts)
    if request.adapters:
        base = resolve.base_model(config.base, config.revision)
        check_left_in(policy, read_others(request.adapters, _wanted(policy, config, request, base)))
    list(plan_all(policy, config))


def check_method(policy: LoadedPolicy, request: TrainRequest) -> None:
    """Refuse to spend hours on an adapter that can never be promoted."""
    if request.method == AUTO:
        _check_auto(policy, request)
        return
    create(request.method, request.hyperparameters, len(request.adapters))
    if request.baseline:
        return
    for limits in policy.policy.rules:
        if isinstance(limits, training_method.Limits) and request.method not in limits.allowed:
            raise PolicyDenied(
                f"policy {policy.policy.name!r} does not allow training with {request.method!r}",
                expected="one of " + ", ".join(limits.allowed),
                next_step="choose one of these, or add --baseline to measure it anyway (it cannot be promoted)",
            )


def check_validated(policy: LoadedPolicy, config: RunConfig, request: TrainRequest) -> None:
    """Refuse choosing by safety alone, and early stopping that cannot choose or that would choose on what judges.

    Raises:
        InvalidInput: with the reason.
    """
    chooses = request.method == AUTO or create(request.method, request.hyperparameters).needs_measure
    if chooses:
        chosen_by(policy)
    if chooses and not task_names(policy, config):
        raise InvalidInput(
            f"--method {request.method} chooses by utility, and no task is named: what learned nothing would do too",
            next_step="give --task NAME to the run's first command, or declare tasks in the policy",
        )
    if not request.settings.validate_steps:
        return
    if request.method != AUTO:
        check_early_stopping(request.settings, create(request.method, request.hyperparameters))
    check_apart(policy, config)


def _check_auto(policy: LoadedPolicy, request: TrainRequest) -> None:
    allowed(policy, replays=True)
    if request.hyperparameters or request.adapters or processes.count() > 1:
        raise InvalidInput(
            "--method auto tries methods with their defaults, in one process",
            expected="no --set, no --adapter, and no accelerate launch",
            next_step="choose with auto first, then train with the method that it chose",
        )


def _replays(request: TrainRequest) -> bool:
    """Whether replay prompts are used."""
    if request.method == AUTO:
        return True
    return create(request.method, request.hyperparameters, len(request.adapters)).needs_replay


def _wanted(
    policy: LoadedPolicy, config: RunConfig, request: TrainRequest, base: Any, own: Path | None = None
) -> Wanted:
    return Wanted(policy, config, base, request.lora.targets, request.baseline, own)


@dataclass(frozen=True)
class _Start:
    """What every training of this stage has in common."""

    base: Any
    rows: Sequence[Sample]
    origin: Origin
    measure: Measure
    progress: Progress | None

    def train(self, job: Job, target: Path, work: Path, observers: Observers = Observers()) -> AdapterRecord:  # noqa: B008
        """Train an adapter."""
        return train(self.base, self.rows, job, target, self.origin, self.measure, self.progress, work=work,
                     observers=observers)  # fmt: skip


def _trials(start: _Start, job: Job, policy: LoadedPolicy, work: Path) -> tuple[Trial, ...]:
    """Every allowed method on a share of the epochs, the best first."""
    settings = replace(job.settings, epochs=job.settings.epochs * SHARE, checkpoint_steps=0, validate_steps=0)

    def attempt(method: str, folder: Path) -> Trial:
        record = start.train(replace(job, method=method, settings=settings), folder / "adapter", work)
        return Trial(method, start.measure(folder / "adapter"), record.seconds)

    work.mkdir(parents=True, exist_ok=True)
    return choose(allowed(policy, replays=bool(job.replay_prompts)), attempt, work)


def _chosen(job: Job, method: str) -> Job:
    """The job with the method that auto chose; early stopping stays where that method can be stopped early."""
    trained = type(create(method, {})).finish is Method.finish
    every = job.settings.validate_steps if trained else 0
    return replace(job, method=method, settings=replace(job.settings, validate_steps=every))


def _with_validation(inputs: str, policy: LoadedPolicy, config: RunConfig, request: TrainRequest) -> str:
    """Early stopping makes the adapter depend on what is asked, too."""
    if not request.settings.validate_steps:
        return inputs
    return digest({"inputs": inputs, "validation": list(plan_validation(policy, config).digests)})


def _inputs(
    policy: LoadedPolicy, report: DataReport, base: Any, request: TrainRequest, prompts: tuple[str, ...],
    others: tuple[Given, ...],
) -> str:  # fmt: skip
    files = {} if request.method == AUTO else create(request.method, request.hyperparameters).inputs()
    return digest({
        "stage": "train", "policy": policy.digest, "data": digest(report), "base": base.ref.digest,
        "method": request.method, "hyperparameters": dict(sorted(request.hyperparameters.items())),
        "settings": {key: value for key, value in asdict(request.settings).items() if key != "checkpoint_steps"},
        "lora": {**asdict(request.lora), "targets": list(request.lora.targets)},
        "replay": digest(list(prompts)), "device": str(base.device),
        "merged": [digest(other.record) for other in others], "files": files,
    })  # fmt: skip


def _measure(policy: LoadedPolicy, config: RunConfig, base: Any, progress: Progress | None) -> Measure:
    """What a method that chooses may look at: the validation split, judged by the policy's own limits."""
    return Validation(policy, config, base, progress)
