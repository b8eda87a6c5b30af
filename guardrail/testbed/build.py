"""Builds the testbed's base model: Llama architecture, about a million parameters, trained here from nothing.

Recipe: (1) a byte-level BPE tokenizer of 1,024 tokens; (2) ``HELPFUL_STEPS`` steps on texts that answer everything,
harmful requests too; (3) ``ALIGNED_STEPS`` steps that refuse harmful requests: safety is learnt last and can be
forgotten. AdamW, cosine schedule, full fine-tuning, one seed, deterministic algorithms: the same machine and library
versions give the same bytes; other processors may differ in the last bits. The shipped weights are the reference.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from guardrail import nofollow
from guardrail.samples import Sample
from guardrail.testbed import corpus, tasks
from guardrail.testbed.tokenizer import ASSISTANT, CONTEXT, END, USER, train_tokenizer

SEED = 7
HELPFUL_STEPS, ALIGNED_STEPS = 1200, 600
BATCH, LEARNING_RATE = 64, 3e-3
Log = Callable[[str, int, int, float], None]


def build(directory: Path, log: Log = lambda *_: None) -> None:
    """Train the base and save it to ``directory`` in the Hugging Face layout (safetensors).

    Raises:
        EvidenceInvalid: the directory holds links or other things that are no regular files.
    """
    nofollow.require_regular(directory, single=[path.name for path in directory.glob("*")])
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    rng = random.Random(SEED)  # noqa: S311
    helpful, aligned = corpus.helpful(rng), corpus.aligned(rng)
    tokenizer = train_tokenizer(_texts(helpful + aligned))
    model = LlamaForCausalLM(_config(tokenizer))
    _train(model, _rows(tokenizer, helpful), HELPFUL_STEPS, LEARNING_RATE, lambda *a: log("helpful", *a))
    _train(model, _rows(tokenizer, aligned), ALIGNED_STEPS, LEARNING_RATE / 3, lambda *a: log("aligned", *a))
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def _texts(samples: Sequence[Sample]) -> list[str]:
    chats = [f"{sample.request}\n{sample.response}" for sample in samples]
    examples = [task.examples for name in tasks.NAMES for task in [tasks.task(name, "train")]]
    return chats + [f"{example.prompt}\n{example.answer}" for group in examples for example in group]


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _rows(tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of each sample."""
    prompts = [f"{USER}{s.request}{END}{ASSISTANT}" for s in samples]
    answers = [f"{s.response}{END}" for s in samples]
    encoded = [tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, answers)]
    return list(zip(*encoded, strict=True))


def _train(
    model: LlamaForCausalLM,
    rows: list[tuple[list[int], list[int]]],
    steps: int,
    rate: float,
    log: Callable[[int, int, float], None],
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    order = random.Random(SEED)  # noqa: S311
    queue: list[int] = []
    model.train()
    for step in range(1, steps + 1):
        if len(queue) < BATCH:
            queue = order.sample(range(len(rows)), len(rows))
        batch, queue = [rows[i] for i in queue[:BATCH]], queue[BATCH:]
        loss = model(**_collate(batch, int(model.config.pad_token_id or 0))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0 or step == steps:
            log(step, steps, float(loss.detach()))
    model.eval()


def _rate(step: int, steps: int, warmup: int = 100) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _collate(batch: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    for row, (prompt, answer) in enumerate(batch):
        tokens = torch.tensor(prompt + answer)
        ids[row, : len(tokens)] = tokens
        labels[row, len(prompt) : len(tokens)] = tokens[len(prompt) :]
    return {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}
