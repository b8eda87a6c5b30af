"""Fit an adapter: the trainer's arguments, its checkpoints, its progress, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from guardrail.errors import InvalidInput
from guardrail.model.load import BaseModel
from guardrail.records import LossPoint, Scalar
from guardrail.train import checkpoint, processes
from guardrail.train.early_stopping import EarlyStopping
from guardrail.train.methods import Method
from guardrail.train.observers import Observers, Telling
from guardrail.train.sharding import sharded
from guardrail.train.student import Student, disable_dropout
from guardrail.train.trainer import Buffers, MethodTrainer, Settings, require_finite

LossProgress = Callable[[int, int, float], None]
POINTS = 50
"""How many points of the loss curve a record keeps at most."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the weights.

    ``tokens`` are those of the whole run; ``seconds`` and the rate (validations not counted) are of this process, which
    started at the step ``resumed_at``; ``accumulation`` is what memory allowed in the end; ``validated`` is what early
    stopping tells.
    """

    loss: tuple[LossPoint, ...]
    tokens: int
    seconds: float
    tokens_per_second: float
    accumulation: int
    resumed_at: int
    validated: Mapping[str, Scalar]


def fit(
    base: BaseModel,
    buffers: Buffers,
    *,
    method: Method,
    settings: Settings,
    checkpoints: Path,
    progress: LossProgress | None = None,
    observers: Observers = Observers(),  # noqa: B008 - frozen
) -> Trained:
    """Train the LoRA layers that are in ``base``, in place; goes on from the last of its ``checkpoints``.

    Raises:
        InternalError: the loss became NaN or infinite.
        InvalidInput: the batch cannot be split as asked, or not even one row fits into memory.
        EvidenceInvalid: a checkpoint was changed.
    """
    disable_dropout(base.model)
    if settings.gradient_checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    student = Student(base.model)
    try:
        with sharded(base, student):
            return _fit(base, student, buffers, method, settings, checkpoints, progress, observers)
    finally:
        if settings.gradient_checkpointing:
            base.model.gradient_checkpointing_disable()


def _fit(
    base: BaseModel,
    student: Student,
    buffers: Buffers,
    method: Method,
    settings: Settings,
    checkpoints: Path,
    progress: LossProgress | None,
    observers: Observers,
) -> Trained:
    stopping = EarlyStopping(student, settings, observers)
    first = {name: value.detach().clone() for name, value in student.trained().items()}
    begun = method.state()
    while True:
        trainer = _trainer(base, student, buffers, method, settings, checkpoints, progress, stopping)
        if observers.tell:
            trainer.add_callback(Telling(observers.tell, trainer.tokens))
        with processes.first_goes_first():
            resume = checkpoint.latest(checkpoints)
        stopping.resume(resume)
        try:
            output = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except torch.OutOfMemoryError as error:
            settings = _smaller(settings, error)
            _rewind(student, first)
            method.load_state(begun)
            continue
        processes.wait()
        stopping.keep_best()
        require_finite(student.trained(), trainer.state.global_step)
        seconds = float(output.metrics["train_runtime"])
        return Trained(
            loss=_curve(trainer.state.log_history),
            tokens=trainer.tokens(),
            seconds=seconds,
            tokens_per_second=trainer.tokens(since_resumed=True) / (seconds - stopping.seconds),
            accumulation=settings.accumulation,
            resumed_at=int(resume.name.rpartition("-")[2]) if resume else 0,
            validated=stopping.record_fields(trainer.state.global_step),
        )


def _trainer(
    base: BaseModel,
    student: Student,
    buffers: Buffers,
    method: Method,
    settings: Settings,
    checkpoints: Path,
    progress: LossProgress | None,
    stopping: EarlyStopping,
) -> MethodTrainer:
    watch = _Watch(student, method, progress)
    trainer = MethodTrainer(
        base=base,
        student=student,
        method=method,
        buffers=buffers,
        settings=settings,
        callbacks=[stopping, watch],
        args=_arguments(settings, checkpoints, len(buffers.user)),
        train_dataset=list(range(len(buffers.user))),
        data_collator=lambda rows: {"rows": rows},
    )
    _check_split(settings)
    trainer.remove_callback(_printer())
    return trainer


def _check_split(settings: Settings) -> None:
    pieces = settings.accumulation * processes.count()
    if settings.batch_size % pieces:
        raise InvalidInput(
            f"a batch of {settings.batch_size} rows cannot be split into {settings.accumulation} micro-batches"
            f" on {processes.count()} processes",
            expected=f"a multiple of {pieces}",
            next_step="change --batch-size or --accumulation",
        )


def _smaller(settings: Settings, error: BaseException) -> Settings:
    """At most half the micro-batch, more accumulation: the same optimiser step in less memory."""
    rows = settings.batch_size // (settings.accumulation * processes.count())
    finer = [n for n in range(2 * settings.accumulation, settings.batch_size + 1) if not settings.batch_size % n]
    if not finer or processes.count() > 1:
        raise InvalidInput(
            f"out of memory with {rows} row(s) at a time: {str(error).splitlines()[0]}",
            next_step="try --gradient-checkpointing, --passes separate, a smaller --lora-rank or shorter rows",
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return replace(settings, accumulation=finer[0])


def _rewind(student: Student, first: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in student.trained().items():
            parameter.copy_(first[name])
            parameter.grad = None


class _Watch(TrainerCallback):
    """Seals checkpoints, tells the method that the optimiser has moved, and reports progress.

    Once training is over nothing is saved any more: what resumed from there would take a step too many.
    """

    def __init__(self, student: Student, method: Method, progress: LossProgress | None) -> None:
        self._student, self._method, self._progress = student, method, progress

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state, control
        if type(self._method).after_update is not Method.after_update:
            self._method.after_update(tuple(self._student.trained().values()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, state
        if control.should_training_stop:
            control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, control
        if self._progress and state.global_step < state.max_steps:  # stopped early: the bar is done all the same
            self._progress(state.max_steps, state.max_steps, 0.0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        del args, control
        if self._progress and logs and "loss" in logs:
            self._progress(state.global_step, state.max_steps, float(logs["loss"]))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del control
        processes.wait()  # every process has written its random state
        if args.should_save:
            checkpoint.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _arguments(settings: Settings, checkpoints: Path, rows: int) -> TrainingArguments:
    steps = -(-rows // settings.batch_size)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=max(1, settings.batch_size // (settings.accumulation * processes.count())),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_share * settings.epochs * steps),
        max_grad_norm=settings.max_grad_norm or inf,  # 0: no clipping, but methods have their turn there
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.checkpoint_steps else "no",
        save_steps=max(1, settings.checkpoint_steps),
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process trains on one device; several are for accelerate launch
    return arguments


def _curve(history: Sequence[dict[str, float]]) -> tuple[LossPoint, ...]:
    """The loss, averaged over stretches of steps so that the record stays small."""
    points = [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    stride = max(1, -(-len(points) // POINTS))
    stretches = [points[start : start + stride] for start in range(0, len(points), stride)]
    return tuple(LossPoint(step=s[-1][0], loss=sum(loss for _, loss in s) / len(s)) for s in stretches)


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
