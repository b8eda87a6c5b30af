"""The training stage: rows in, an adapter and its record out.

The order of work: encode and count rows, self-generate the replay buffer with the untouched base, attach LoRA, fit,
save, let the method finish (WiSE-FT), record. Rows longer than the base's context are left out and counted, never cut.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import set_seed

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.model.adapter import add_lora, save_adapter, strip_lora
from guardrail.model.chat import Encoded, encode_chat
from guardrail.model.head import check_head
from guardrail.model.load import BaseModel
from guardrail.records import AdapterRecord, Scalar
from guardrail.samples import Sample
from guardrail.train.methods import Measure, Method, create
from guardrail.train.replay import Replay, self_generate
from guardrail.train.trainer import Settings, Trained, fit

PACKAGES = ("accelerate", "peft", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class Lora:
    """The adapter's shape; ``targets`` empty means every linear layer but the output head."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One training run as asked for."""

    method: str
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    lora: Lora = field(default_factory=Lora)
    replay_prompts: tuple[str, ...] = ()
    replay_max_new_tokens: int = 48


@dataclass(frozen=True)
class Origin:
    """Where the job's inputs come from, by digest, for the record."""

    inputs: str
    policy: str
    data: str
    training_digest: str


Progress = Callable[[str, int, int], None]


def train(
    base: BaseModel,
    samples: Sequence[Sample],
    job: Job,
    target: Path,
    origin: Origin,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> AdapterRecord:
    """Fine-tune an adapter with a method and save it to ``target``.

    Raises:
        InvalidInput: nothing to train on, no replay for a method that needs it, unknown targets or hyperparameters.
        InternalError: the loss became NaN or infinite.
    """
    method = create(job.method, job.hyperparameters)
    check_head(base.model)
    rows = encode_rows(base, samples)
    set_seed(job.settings.seed)
    replay = _replay(base, method, job, progress)
    trained = _fit(base, rows, method, replay, job, target, progress)
    chosen = method.finish(target, measure)
    return _record(base, job, method, chosen, origin, replay, trained, len(rows), len(samples) - len(rows), target)


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


def _replay(base: BaseModel, method: Method, job: Job, progress: Progress | None) -> Replay | None:
    if not method.needs_replay:
        return None
    done = 0

    def count(new: int, total: int) -> None:
        nonlocal done
        done += new
        if progress:
            progress("replay answers", done, total)

    return self_generate(base, job.replay_prompts, max_new_tokens=job.replay_max_new_tokens, progress=count)


def _fit(
    base: BaseModel,
    rows: Sequence[Encoded],
    method: Method,
    replay: Replay | None,
    job: Job,
    target: Path,
    progress: Progress | None,
) -> Trained:
    model = add_lora(base, **asdict(job.lora))
    try:
        with TemporaryDirectory(dir=target.parent) as scratch:
            trained = fit(
                base,
                model,
                rows,
                method=method,
                replay=replay,
                settings=job.settings,
                scratch=Path(scratch),
                progress=(lambda step, total, _: progress("training", step, total)) if progress else None,
            )
        save_adapter(model, target, base.ref)
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
    replay: Replay | None,
    trained: Trained,
    rows: int,
    too_long: int,
    target: Path,
) -> AdapterRecord:
    files = manifest(target)
    lora = {
        f"lora_{key}": ",".join(value) if isinstance(value, tuple) else value for key, value in asdict(job.lora).items()
    }
    settings = {key: value for key, value in asdict(job.settings).items() if key != "seed"}
    return AdapterRecord(
        inputs=origin.inputs,
        policy=origin.policy,
        data=origin.data,
        training_digest=origin.training_digest,
        base=base.ref,
        method=job.method,
        hyperparameters={**settings, **lora, **method.hyperparameters, **chosen},
        seed=job.settings.seed,
        replay_digest=replay.digest if replay else None,
        replay_rows=len(replay.rows) if replay else 0,
        files=files,
        manifest=manifest_digest(files),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        device=str(base.device),
        rows=rows,
        rows_too_long=too_long,
        tokens=trained.tokens,
        seconds=trained.seconds,
        tokens_per_second=trained.tokens / trained.seconds,
        peak_memory_bytes=_peak_memory(),
        loss=trained.loss,
    )


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
