"""What DER costs: against the naive form, against plain fine-tuning, and plain fine-tuning against TRL's SFTTrainer.

    python benchmarks/training_speed.py [--quick] [--json FILE]

All in one run, as ratios; every variant trains the same random rows on the same randomly initialised Llama, in a
process of its own, so that peak memory is its own. Shapes: replay : user rows 1 : 1, prompts and answers of equal
length, no gradient checkpointing, LoRA rank 16 on every linear layer, one forward pass for both kinds of rows
(``der``), or two (``der-two-passes``). *Naive* DER runs the teacher (adapter disabled) on the replay rows at every
step and projects every position to the vocabulary.

The ceiling of what caching the teacher can win: with N weights in the body a LoRA step costs 2N forward and 2N
backward FLOPs a token (no weight gradients of the base), so a pair of a user and a replay token costs 8N against naive
DER's 10N. With a head of H x V, projecting a token costs 2HV forward and 2HV for the gradient; naive DER does that at
all positions and for the teacher, ours at answer positions. The printed ceiling counts both; attention's own products
are left out.

Targets: naive / der time at least 0.92 of the ceiling; extra peak memory over finetune at most half of naive DER's, in
two passes; der / (finetune x token ratio) at most 1.10; SFTTrainer / finetune at least 1 (needs ``pip install trl``).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Shapes:
    """The model and the rows."""

    hidden: int = 384
    layers: int = 8
    vocabulary: int = 8192
    prompt: int = 48
    answer: int = 48
    batch: int = 8
    steps: int = 12

    @property
    def body(self) -> int:
        """N, the weights of the linear layers below the head."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * 4 * self.hidden)

    @property
    def ceiling(self) -> float:
        """FLOPs of naive DER over those of ours, a pair of rows."""
        head, row = self.hidden * self.vocabulary, self.prompt + self.answer
        ours = 8 * self.body * row + (4 + 6) * head * self.answer
        naive = 10 * self.body * row + (4 + 6) * head * row
        return naive / ours


@dataclass(frozen=True)
class Cost:
    """Seconds a step, and bytes of peak memory above what was there before training."""

    seconds: float
    memory: int


def base_and_rows(shapes: Shapes, count: int, seed: int) -> tuple[Any, list[Any]]:
    """A base and random rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from guardrail.model.chat import Encoded
    from guardrail.model.load import BaseModel
    from guardrail.records import ModelRef

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shapes.hidden,
        intermediate_size=4 * shapes.hidden,
        num_hidden_layers=shapes.layers,
        num_attention_heads=6,
        vocab_size=shapes.vocabulary,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = LlamaForCausalLM(config)
    model = model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ref = ModelRef(
        name="random", digest="0" * 64, architecture="LlamaForCausalLM", dtype=str(model.dtype), template="own"
    )
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, shapes.vocabulary, (length,), generator=generator).tolist())

    rows = [Encoded(tokens(shapes.prompt), tokens(shapes.answer)) for _ in range(count)]
    return BaseModel(model, None, ref, Path(), device), rows  # type: ignore[arg-type]


def ours(shapes: Shapes, method: str, passes: str) -> Cost:
    """Our trainer."""
    from guardrail.model.adapter import add_lora
    from guardrail.train.fit import fit
    from guardrail.train.methods import create
    from guardrail.train.replay import ReplayRows
    from guardrail.train.teacher import teacher_states
    from guardrail.train.trainer import Buffers, Settings

    base, rows = base_and_rows(shapes, shapes.batch * shapes.steps, 1)
    _, replayed = base_and_rows(shapes, shapes.batch * shapes.steps, 2)
    with tempfile.TemporaryDirectory() as scratch:
        teacher = teacher_states(base, replayed, Path(scratch))
        buffers = Buffers(rows, ReplayRows(tuple(replayed), "0" * 64), replay_teacher=teacher)
        add_lora(base, rank=16, alpha=32.0, dropout=0.0)
        settings = Settings(epochs=1.0, batch_size=shapes.batch, passes=passes, checkpoint_steps=0)
        before = peak()
        trained = fit(base, buffers, method=create(method, {}), settings=settings, checkpoints=Path(scratch) / "c")
    return Cost(trained.seconds / shapes.steps, peak() - before)


def naive(shapes: Shapes) -> Cost:
    """DER as one would write it first."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from guardrail.model.adapter import add_lora
    from guardrail.train.collate import join, pad

    base, rows = base_and_rows(shapes, shapes.batch * shapes.steps, 1)
    _, replayed = base_and_rows(shapes, shapes.batch * shapes.steps, 2)
    model = add_lora(base, rank=16, alpha=32.0, dropout=0.0)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-4)
    before, start = peak(), perf_counter()
    for step in range(shapes.steps):
        at = slice(step * shapes.batch, (step + 1) * shapes.batch)
        replay = pad(replayed[at]).to(base.device)
        both = join(pad(rows[at]), pad(replayed[at])).to(base.device)
        with torch.no_grad(), model.disable_adapter():
            teacher = model(input_ids=replay.ids, attention_mask=replay.mask).logits
        logits = model(input_ids=both.ids, attention_mask=both.mask).logits
        user, student = logits[: shapes.batch], logits[shapes.batch :]
        loss = F.cross_entropy(user.flatten(0, 1).float(), both.targets[: shapes.batch].flatten(), ignore_index=-100)
        at_answers = replay.targets != -100
        target = F.log_softmax(teacher.float(), -1)[at_answers]
        predicted = F.log_softmax(student.float(), -1)[at_answers]
        loss = loss + 10.0 * F.kl_div(predicted, target, reduction="batchmean", log_target=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return Cost((perf_counter() - start) / shapes.steps, peak() - before)


def sft(shapes: Shapes) -> Cost:
    """TRL's SFTTrainer on the same rows: completion-only loss, the same optimiser and batch."""
    import torch

    from guardrail.model.adapter import add_lora

    base, rows = base_and_rows(shapes, shapes.batch * shapes.steps, 1)
    model = add_lora(base, rank=16, alpha=32.0, dropout=0.0)
    datasets, trl = import_module("datasets"), import_module("trl")  # neither is needed to use guardrail
    data = datasets.Dataset.from_list(
        [{"input_ids": [*row.prompt, *row.answer], "labels": [-100] * len(row.prompt) + [*row.answer]} for row in rows]
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = trl.SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=shapes.batch,
            num_train_epochs=1.0,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            max_length=None,
            packing=False,
            gradient_checkpointing=False,
            bf16=False,
            completion_only_loss=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_pin_memory=False,
        )
        trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=_tokenizer(shapes))
        before = peak()
        output = trainer.train()
    return Cost(float(output.metrics["train_runtime"]) / shapes.steps, peak() - before)


def _tokenizer(shapes: Shapes) -> Any:
    """SFTTrainer wants one; the rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(shapes.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w2")  # noqa: S106


def peak() -> int:
    """Bytes: the device's peak, or the process's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def variant(name: str, shapes: Shapes) -> Cost:
    """One variant, after a short warm-up of the process."""
    import warnings

    from guardrail.model.silence_transformers import silence_transformers

    silence_transformers()
    warnings.simplefilter("ignore")
    run = {
        "finetune": lambda s: ours(s, "finetune", "joint"),
        "der": lambda s: ours(s, "der", "joint"),
        "der-two-passes": lambda s: ours(s, "der", "separate"),
        "naive": naive,
        "sft": sft,
    }[name]
    run(Shapes(hidden=48, layers=1, vocabulary=64, prompt=4, answer=4, batch=2, steps=2))
    return run(shapes)


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once each, fewer steps")
    parser.add_argument("--json", type=Path, help="write the costs here")
    arguments = parser.parse_args()
    shapes, repeats = (Shapes(steps=6), 1) if arguments.quick else (Shapes(), 3)
    names = ["finetune", "der", "der-two-passes", "naive", *(["sft"] if find_spec("trl") else [])]
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            with get_context("spawn").Pool(1) as pool:
                costs[name].append(pool.apply(variant, (name, shapes)))
    seconds = {name: statistics.median(cost.seconds for cost in found) for name, found in costs.items()}
    memory = {name: statistics.median(cost.memory for cost in found) for name, found in costs.items()}
    print(f"{asdict(shapes)}, {repeats} runs each, medians\n\n| variant | s a step | peak, MiB |\n|---|---|---|")
    for name in names:
        print(f"| {name} | {seconds[name]:.3f} | {memory[name] / 2**20:.0f} |")
    met = True
    print("\n| target | met | measured |\n|---|---|---|")
    for what, ok, measured in targets(shapes, seconds, memory):
        met &= ok
        print(f"| {what} | {'yes' if ok else 'NO'} | {measured} |")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"seconds": seconds, "memory": memory}, indent=1) + "\n")
    return 0 if met else 1


def targets(shapes: Shapes, seconds: dict[str, float], memory: dict[str, float]) -> list[tuple[str, bool, str]]:
    """Each target: what it is, whether it is met, the figure."""
    gain, tokens = seconds["naive"] / seconds["der"], seconds["der"] / (2 * seconds["finetune"])
    extra = [memory[name] - memory["finetune"] for name in ("der-two-passes", "naive")]
    found = [
        (f"naive / der >= 0.92 of the ceiling {shapes.ceiling:.2f}", gain >= 0.92 * shapes.ceiling, f"{gain:.2f}"),
        (
            "extra memory of der in two passes <= half of naive's",
            extra[0] <= 0.5 * extra[1],
            f"{extra[0] / 2**20:.0f} against {extra[1] / 2**20:.0f} MiB",
        ),
        ("der / (finetune x token ratio) <= 1.10", tokens <= 1.10, f"{tokens:.2f}"),
    ]
    if "sft" in seconds:
        ratio = seconds["sft"] / seconds["finetune"]
        found.append(("SFTTrainer / finetune >= 1.0", ratio >= 1.0, f"{ratio:.2f}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
