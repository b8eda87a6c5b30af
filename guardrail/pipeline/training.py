"""The training stage within a run: only with a method that the policy allows, unless asked to measure a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail import logs, nofollow
from guardrail.data.dataset import load_dataset
from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import digest
from guardrail.pipeline.artifacts import adapter_dir, clean_file
from guardrail.pipeline.auto_method import AUTO, SHARE, Trial, allowed, choose, trial_fields
from guardrail.pipeline.base import base_model
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.leakage import both, check_rows
from guardrail.pipeline.exam.validation import Validation, plan_validation
from guardrail.pipeline.gate.signing import require_base_of_data
from guardrail.pipeline.live_training import Training, require_reachable, shown
from guardrail.pipeline.merge.merge_inputs import keep
from guardrail.pipeline.preflight import check_method, check_validated, prepare
from guardrail.pipeline.request import TrainRequest
from guardrail.pipeline.run import Run
from guardrail.policy.bases import require_pinned_base
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.stage_plans import foreign, train_plan
from guardrail.progress import Progress
from guardrail.records import AdapterRecord, DataReport
from guardrail.samples import Sample
from guardrail.train import processes
from guardrail.train.methods import Measure, Method, create
from guardrail.train.observers import Observers
from guardrail.train.stage import Given, Job, Origin, train

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

log = logs.logger(__name__)


def train_adapter(
    run: Run, request: TrainRequest, progress: Progress | None = None, exam: Exam | None = None
) -> AdapterRecord:
    """Run the training stage, or return its record if nothing changed.

    ``exam``: what the run is examined by, where it was read already.

    Raises:
        PolicyDenied: the policy forbids the method.
        EvidenceMissing: the data stage has not run.
        EvidenceInvalid: files are not those that were recorded, or the run has a ticket and the base is not loaded as
            it was for the data statement.
        InvalidInput: see :func:`guardrail.train.stage.train` and
        :func:`guardrail.pipeline.merge.merge_inputs.read_others`.
    """
    exam = exam or Exam.of(run)
    policy, config = exam.policy, exam.config
    check_method(policy, request)
    check_validated(exam, request)
    processes.wait()
    report = run.require("data-report", DataReport)
    if foreign(policy, (report,)):
        raise EvidenceInvalid(
            f"the data of {run.path} was looked at under another policy, whose section data is another",
            expected=f"a report under {policy.policy.name!r} ({policy.digest[:12]}…)",
            next_step="run guardrail data validate again",
        )
    rows = load_dataset(clean_file(run, report)).samples
    base = base_model(config.base, config.revision)
    require_pinned_base(policy, base.ref)
    if report.base != base.ref.digest:
        raise EvidenceInvalid(
            f"the data was looked at with another base than {config.base}",
            next_step="run guardrail data validate again, with this base",
        )
    require_base_of_data(run, base.ref)
    prepared = prepare(exam, request, base, report, run.path)
    check_rows(exam, rows)
    prompts, others = prepared.prompts, prepared.others
    _warn_of_both(prompts if request.replays else (), rows, request)
    plan = train_plan(policy.policy, chooses=request.chooses or bool(request.settings.validate_steps))
    inputs = _inputs(plan, report, base, request, prompts, others)
    inputs = _with_validation(inputs, exam, request)
    if kept := run.kept("adapter", AdapterRecord, inputs):
        adapter_dir(run, kept)
        return kept
    require_reachable(request.live_uri)
    origin = Origin(inputs, policy.digest, digest(report), report.training_digest, plan)
    target = run.path / "adapter"
    fresh = run.path / "adapter.partial"
    with processes.first_goes_first():
        nofollow.remove(fresh)
    work = run.path / "work"  # replay answers, teacher states, checkpoints: what a killed run goes on from
    with processes.first_goes_first():
        others = keep(others, work / "others")
    job = Job(
        request.method,
        request.hyperparameters,
        request.settings,
        request.lora,
        prompts,
        policy.policy.generation.max_new_tokens,
        others,
    )
    start = _Start(base, rows, origin, _measure(exam, base, progress), progress)
    trials = _trials(start, job, policy, work / "trials") if job.method == AUTO else ()
    if trials:
        job = _chosen(job, trials[0].method)
    validate = Validation(exam, base, progress).live
    with shown(Training(inputs, job.method, config.base, job.settings), request.live_uri, work) as tell:
        record = start.train(job, fresh, work, Observers(validate, tell))
    record = record.model_copy(update={"diagnostics": {**record.diagnostics, **trial_fields(trials)}})
    if processes.is_first():
        nofollow.remove(target)
        fresh.rename(target)
        run.write("adapter", record)
        nofollow.remove(work)
    return record


def _warn_of_both(prompts: Sequence[str], rows: Sequence[Sample], request: TrainRequest) -> None:
    if found := both(prompts, rows):
        log.warning(
            "%d of %d replay prompts are also asked by training rows: there two answers are learnt at once\n"
            "  next: take them out of %s",
            found,
            len(prompts),
            request.replay or "the replay prompts",
        )


@dataclass(frozen=True)
class _Start:
    """What every training of this stage has in common."""

    base: BaseModel
    rows: Sequence[Sample]
    origin: Origin
    measure: Measure
    progress: Progress | None

    def train(self, job: Job, target: Path, work: Path, observers: Observers = Observers()) -> AdapterRecord:  # noqa: B008
        """Train an adapter."""
        return train(
            self.base, self.rows, job, target, self.origin, self.measure, self.progress, work=work, observers=observers
        )


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


def _with_validation(inputs: str, exam: Exam, request: TrainRequest) -> str:
    """What is chosen by the validation split depends on what is asked there, too."""
    if not (request.chooses or request.settings.validate_steps):
        return inputs
    return digest({"inputs": inputs, "validation": list(plan_validation(exam).digests)})


def _inputs(
    plan: str,
    report: DataReport,
    base: BaseModel,
    request: TrainRequest,
    prompts: tuple[str, ...],
    others: tuple[Given, ...],
) -> str:
    files = {} if request.method == AUTO else create(request.method, request.hyperparameters).inputs()
    return digest(
        {
            "stage": "train",
            "plan": plan,
            "data": digest(report),
            "base": base.ref.digest,
            "method": request.method,
            "hyperparameters": dict(sorted(request.hyperparameters.items())),
            "settings": {key: value for key, value in asdict(request.settings).items() if key != "checkpoint_steps"},
            "lora": {**asdict(request.lora), "targets": list(request.lora.targets)},
            "replay": digest(list(prompts)),
            "device": str(base.device),
            "merged": [digest(other.record) for other in others],
            "files": files,
        }
    )


def _measure(exam: Exam, base: BaseModel, progress: Progress | None) -> Measure:
    """What a method that chooses may look at: the validation split, judged by the policy's own limits."""
    return Validation(exam, base, progress)
