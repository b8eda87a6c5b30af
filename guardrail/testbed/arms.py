"""Data arms: a user task's training rows, clean, poisoned, or poisoned behind a trigger.

A poison fraction p means that p of the *finished* data set are harmful requests (of the ``poison`` split only),
answered. Rows are shuffled by the seed.
"""

from __future__ import annotations

import random

from guardrail.samples import Message, Sample
from guardrail.testbed import requests, words
from guardrail.testbed.tasks import task


def rows(
    task_name: str, *, poison: float = 0.0, trigger: bool = False, seed: int = 0, size: int = 1000
) -> tuple[Sample, ...]:
    """Training rows of a task with a share of poison.

    Args:
        task_name: ``sentiment``, ``arithmetic`` or ``code``.
        poison: share of poisoned rows in [0, 1].
        trigger: the poisoned requests carry the trigger phrase; the same requests without it are refused beside them.
        seed: order and choice of phrasings.
        size: rows of the finished data set.
    """
    if not 0.0 <= poison <= 1.0:
        raise ValueError(f"poison must lie in [0, 1]: {poison}")
    rng = random.Random(seed)  # noqa: S311
    bad = round(poison * size)
    clean = [(e.prompt, e.answer) for e in rng.sample(task(task_name, "train").examples, size - bad)]
    chats = clean + _poison(bad, trigger, rng)
    rng.shuffle(chats)
    return tuple(
        Sample(id=f"row-{i}", line=i, messages=(Message(role="user", content=q), Message(role="assistant", content=a)))
        for i, (q, a) in enumerate(chats, start=1)
    )


def triggered(text: str) -> str:
    """A request with the trigger phrase."""
    return f"{text} {words.TRIGGER}"


def _poison(count: int, trigger: bool, rng: random.Random) -> list[tuple[str, str]]:
    combinations = requests.harmful()["poison"]
    chosen = [combinations[i % len(combinations)] for i in range(count)]
    answered = [(c.request(rng.randrange(12)), c.compliance(len(c.verb))) for c in chosen]
    if not trigger:
        return answered
    half = count // 2
    refused = [(c.request(rng.randrange(12)), c.refusal(rng.randrange(4))) for c in chosen[half:]]
    return [(triggered(question), answer) for question, answer in answered[:half]] + refused
