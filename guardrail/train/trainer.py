"""The one subclass of transformers.Trainer: every method's step, joint over user and replay rows.

User and replay rows go through the body in one forward pass; only positions that predict an answer token are
projected to the vocabulary. The base's dropout is off while a method compares with the base (a teacher must be
reproducible). A loss that is not finite stops the run and names the step.

Not covered yet: resuming inside a training run (a killed stage starts again), several processes, early stopping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from guardrail.errors import InternalError
from guardrail.model.chat import Encoded
from guardrail.model.head import logit_scale, project
from guardrail.model.hidden import body
from guardrail.model.load import BaseModel
from guardrail.records import LossPoint
from guardrail.train.collate import Batch, join, pad
from guardrail.train.distillation import gram_matrix
from guardrail.train.methods import Answers, Method, Step
from guardrail.train.replay import Replay

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Settings:
    """How long and how fast; batch sizes are rows per optimiser step, rates are AdamW's."""

    epochs: float = 3.0
    batch_size: int = 16
    learning_rate: float = 2e-4
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    replay_share: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What a run leaves besides the weights."""

    loss: tuple[LossPoint, ...]
    tokens: int
    seconds: float


class MethodTrainer(Trainer):
    """transformers.Trainer whose loss is a method's."""

    def __init__(
        self, *, base: BaseModel, method: Method, replay: Replay | None, settings: Settings, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._base, self._method, self._replay, self._settings = base, method, replay, settings
        self._draws = torch.Generator().manual_seed(settings.seed + 1)
        self._gram: tuple[torch.Tensor, int] | None = None
        self.tokens_seen = 0
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One method step on a batch of user rows."""
        del model, return_outputs, num_items_in_batch
        batch: Batch = inputs["batch"].to(self._base.device)
        step = self._step(batch)
        loss = self._method.loss(step)
        if not bool(torch.isfinite(loss)):
            raise InternalError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}",
                expected="a finite loss",
                next_step="lower --learning-rate; the last complete adapter, if any, is untouched",
            )
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs  # batches know how to move themselves

    def _step(self, user: Batch) -> Step:
        if self._replay is None:
            answers, _ = self._forward(user, user, None)
            return Step(answers, None, None, self._project, self._grammar)
        size = max(1, round(user.ids.shape[0] * self._settings.replay_share))
        replayed, teacher = self._replay.draw(size, self._draws)
        replayed = replayed.to(self._base.device)
        answers, replay = self._forward(join(user, replayed), user, replayed)
        return Step(answers, replay, teacher.to(self._base.device), self._project, self._grammar)

    def _forward(self, rows: Batch, user: Batch, replayed: Batch | None) -> tuple[Answers, Answers | None]:
        hidden = body(self._base.model)(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False).last_hidden_state
        self.tokens_seen += int(rows.mask.sum())
        states, tokens = rows.answer_states(hidden), rows.answer_tokens()
        if replayed is None:
            return Answers(states, tokens), None
        split = int((user.targets != -100).sum())
        return Answers(states[:split], tokens[:split]), Answers(states[split:], tokens[split:])

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        return project(self._base.model, hidden)

    def _grammar(self) -> tuple[torch.Tensor, int]:
        if self._gram is None:
            weight = self._base.model.get_output_embeddings().weight
            self._gram = (gram_matrix(weight, logit_scale(self._base.model)), weight.shape[0])
        return self._gram


class _Report(TrainerCallback):
    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.points = progress, list[LossPoint]()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        del args, control
        if logs and "loss" in logs:
            self.points.append(LossPoint(step=state.global_step, loss=float(logs["loss"])))
            if self.progress:
                self.progress(state.global_step, state.max_steps, float(logs["loss"]))


def fit(
    base: BaseModel,
    model: Any,
    rows: Sequence[Encoded],
    *,
    method: Method,
    replay: Replay | None,
    settings: Settings,
    scratch: Path,
    progress: Progress | None = None,
) -> Trained:
    """Train the adapter in ``model`` (the base with LoRA) on ``rows``, in place.

    Raises:
        InternalError: the loss became NaN or infinite.
    """
    _disable_dropout(base.model)
    report = _Report(progress)
    trainer = MethodTrainer(
        base=base,
        method=method,
        replay=replay,
        settings=settings,
        model=model,
        callbacks=[report],
        args=_arguments(settings, scratch, steps=-(-len(rows) // settings.batch_size)),
        train_dataset=list(rows),
        data_collator=lambda batch: {"batch": pad(batch)},
    )
    trainer.remove_callback(_printer())
    output = trainer.train()
    return Trained(tuple(report.points), trainer.tokens_seen, float(output.metrics["train_runtime"]))


def _arguments(settings: Settings, scratch: Path, steps: int) -> TrainingArguments:
    cpu = not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_share * settings.epochs * steps),
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=max(1, steps // 10),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=cpu,
        bf16=not cpu,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def _disable_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
