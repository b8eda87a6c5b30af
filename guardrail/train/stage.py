"""The training stage: rows in, an adapter and its record out.

The order of work: encode and count rows, self-generate the replay buffer with the untouched base, attach LoRA, fit,
save, let the method finish (WiSE-FT scales, merges combine), record. A merge trains an adapter for each of its parts
that is not given (adapters of other runs are, checked by the caller).
Rows longer than the base's context are left out and counted, never cut.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import set_seed

from guardrail import nofollow
from guardrail.errors import InvalidInput
from guardrail.evidence.code_digest import code_digest
from guardrail.evidence.digest import digest, manifest, manifest_digest
from guardrail.model.adapter import add_lora, save_adapter, strip_lora
from guardrail.model.chat import Encoded, encode_chat
from guardrail.model.head import check_head
from guardrail.model.load import BaseModel
from guardrail.progress import Progress
from guardrail.records import AdapterRecord, MergedAdapter, Scalar
from guardrail.samples import Sample
from guardrail.train import early_stopping, finished_parts, memory
from guardrail.train.checkpoint import prepare
from guardrail.train.fit import Trained, fit
from guardrail.train.methods import Measure, Method, Setup, create, given_parts
from guardrail.train.observers import Observers
from guardrail.train.packing import check_packing
from guardrail.train.processes import first_goes_first, is_first, wait
from guardrail.train.replay import ReplayRows, self_generate
from guardrail.train.teacher import teacher_states
from guardrail.train.trainer import Buffers, Settings

PACKAGES = ("accelerate", "mlflow-guardrail", "peft", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class Lora:
    """The adapter's shape; ``targets`` empty means every linear layer but the output head."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """An adapter that is merged in and not trained here: where its files lie, and what the record says of it."""

    directory: Path
    record: MergedAdapter


@dataclass(frozen=True)
class Job:
    """One training run as asked for."""

    method: str
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    lora: Lora = field(default_factory=Lora)
    replay_prompts: tuple[str, ...] = ()
    replay_max_new_tokens: int = 48
    adapters: tuple[Given, ...] = ()

    def hyperparameters_of(self, method: Method) -> dict[str, Scalar]:
        """Everything that decides the adapter besides rows and seed, for the record."""
        lora = {
            f"lora_{key}": ",".join(value) if isinstance(value, tuple) else value
            for key, value in asdict(self.lora).items()
        }
        settings = {key: value for key, value in asdict(self.settings).items() if key != "seed"}
        return {**settings, **lora, **method.hyperparameters}


@dataclass(frozen=True)
class Origin:
    """Where the job's inputs come from, by digest, for the record."""

    inputs: str
    policy: str
    data: str
    training_digest: str
    plan: str | None = None


def train(
    base: BaseModel,
    samples: Sequence[Sample],
    job: Job,
    target: Path,
    origin: Origin,
    measure: Measure | None = None,
    progress: Progress | None = None,
    *,
    work: Path | None = None,
    observers: Observers = Observers(),  # noqa: B008 - frozen
) -> AdapterRecord:
    """Fine-tune an adapter with a method and save it to ``target``.

    Args:
        work: where replay answers, teacher states and checkpoints are kept, so that a run that was killed goes on;
            a temporary directory by default.
        observers: who scores the live model for early stopping and who is told how it goes, on the user's part.

    Raises:
        InvalidInput: nothing to train on, no replay for a method that needs it, unknown targets or hyperparameters, or
            early stopping with a method that makes its adapter after training.
        InternalError: the loss became NaN or infinite.
        EvidenceInvalid: a checkpoint was changed.
    """
    if work is None:
        with TemporaryDirectory(dir=target.parent) as scratch:
            return train(base, samples, job, target, origin, measure, progress, work=Path(scratch), observers=observers)
    memory.forget_peak()
    code_digest()  # read now what is running, not what lies there when training has ended
    method = create(job.method, job.hyperparameters, len(job.adapters))
    early_stopping.check(job.settings, method)
    check_head(base.model)
    if job.settings.packing:
        check_packing(base.model)
    rows = encode_rows(base, samples)
    with first_goes_first():
        replay = _replay(base, method, job, work, progress)
    trained, made = [], dict(zip(given_parts(len(job.adapters)), (one.directory for one in job.adapters), strict=True))
    for part in (name for name in method.parts if name not in made):
        made[part] = target if part == "user" else work / f"part-{part}"
        own = rows if part == "user" else replay.rows if replay else ()
        checkpoints = work / f"checkpoints-{part}"
        with first_goes_first():
            prepare(checkpoints, _mark(origin, job, method, part))
        watched = observers if part == "user" else Observers()
        trained.append(_fit(base, own, method, replay, job, made[part], checkpoints, progress, watched))
    chosen = method.finish(target, made, measure) if is_first() else {}
    wait()
    too_long = len(samples) - len(rows)
    record = _record(base, job, method, chosen, origin, replay, trained, len(rows), too_long, target)
    if is_first():  # not before: whatever is killed until here goes on from them
        for part in method.parts:
            nofollow.remove(work / f"checkpoints-{part}")
    return record


def _mark(origin: Origin, job: Job, method: Method, part: str) -> str:
    """Names what checkpoints are of: those of another method or setting are never gone on from."""
    told = {key: value for key, value in job.hyperparameters_of(method).items() if key != "checkpoint_steps"}
    return digest(
        {"inputs": origin.inputs, "method": job.method, "told": told, "seed": job.settings.seed, "part": part}
    )


def encode_rows(base: BaseModel, samples: Sequence[Sample]) -> list[Encoded]:
    """Token rows that fit the base's context.

    Raises:
        InvalidInput: no row fits, or there is none.
    """
    encoded = [encode_chat(base.tokenizer, sample.messages) for sample in samples]
    rows = [row for row in encoded if len(row) <= base.context]
    if not rows:
        raise InvalidInput(
            f"none of the {len(samples)} rows fits the base's context of {base.context} tokens",
            next_step="split long rows, or use a base with a longer context",
        )
    return rows


def _replay(base: BaseModel, method: Method, job: Job, work: Path, progress: Progress | None) -> ReplayRows | None:
    if not method.needs_replay:
        return None
    done = 0

    def count(new: int, total: int) -> None:
        nonlocal done
        done += new
        if progress:
            progress("replay answers", done, total)

    length = job.replay_max_new_tokens
    return self_generate(base, job.replay_prompts, max_new_tokens=length, cache=work / "cache", progress=count)


def _fit(
    base: BaseModel,
    rows: Sequence[Encoded],
    method: Method,
    replay: ReplayRows | None,
    job: Job,
    target: Path,
    checkpoints: Path,
    progress: Progress | None,
    observers: Observers,
) -> Trained:
    mine = method.rows(rows, replay.rows if replay else (), job.settings.seed)
    cache = checkpoints.parent / "cache"
    with first_goes_first():
        on_user = teacher_states(base, mine, cache) if method.user_teacher else None
        on_replay = teacher_states(base, replay.rows, cache) if method.replay_teacher and replay else None
    set_seed(job.settings.seed)  # every part starts from the same adapter, whatever was done before it
    model = add_lora(base, **asdict(job.lora))
    try:
        method.begin(Setup(base, model, mine, replay.rows if replay else (), job.settings.seed))
        kept = (
            finished_parts.place(checkpoints.parent, base, mine, job.settings, asdict(job.lora))
            if method.plain
            else None
        )
        if kept is not None and (known := finished_parts.find(kept, target)) is not None:
            return known
        trained = fit(
            base,
            Buffers(mine, replay, on_user, on_replay),
            method=method,
            settings=job.settings,
            checkpoints=checkpoints,
            progress=(lambda step, total, _: progress("training", step, total)) if progress else None,
            observers=observers,
        )
        if is_first():
            save_adapter(model, target, base.ref)
            if kept is not None:
                finished_parts.keep(kept, target, trained)
        wait()
    finally:
        strip_lora(base, model)
        base.model.eval()
    return trained


def _record(
    base: BaseModel,
    job: Job,
    method: Method,
    chosen: dict[str, Scalar],
    origin: Origin,
    replay: ReplayRows | None,
    trained: Sequence[Trained],
    rows: int,
    too_long: int,
    target: Path,
) -> AdapterRecord:
    files = manifest(target)
    tokens, seconds = sum(one.tokens for one in trained), sum(one.seconds for one in trained)
    return AdapterRecord(
        inputs=origin.inputs,
        policy=origin.policy,
        plan=origin.plan,
        data=origin.data,
        training_digest=origin.training_digest,
        base=base.ref,
        method=job.method,
        hyperparameters={**job.hyperparameters_of(method), **chosen},
        diagnostics={
            **method.diagnostics(),
            "accumulation": trained[0].accumulation,
            "resumed_at_step": trained[0].resumed_at,
            **trained[0].validated,
        },
        seed=job.settings.seed,
        replay_digest=replay.digest if replay else None,
        replay_rows=len(replay.rows) if replay else 0,
        merged=tuple(one.record for one in job.adapters),
        files=files,
        manifest=manifest_digest(files),
        code=code_digest(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        device=str(base.device),
        rows=rows,
        rows_too_long=too_long,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=trained[0].tokens_per_second,
        peak_memory_bytes=memory.peak(),
        loss=trained[0].loss,
    )


def _version(name: str) -> str:
    """Of an installed package; this one may run from its sources, which ``code`` names."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
