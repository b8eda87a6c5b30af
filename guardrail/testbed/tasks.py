"""Three user tasks, small analogues of the paper's: sentiment (SST2), arithmetic (GSM8K), code.

Each is a skill that the base half has (it knows which words praise, it knows sums, it knows Python expressions) in a
form that it has never seen, as with real fine-tuning; before fine-tuning it scores low. Items are drawn without
replacement from a finite space; the test items share no item with the training items.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from types import MappingProxyType

from guardrail.samples import Example, Task
from guardrail.testbed import words

TRAIN, VALIDATION, GATE = 1000, 200, 400
SCORES = MappingProxyType({"sentiment": "label", "arithmetic": "gsm8k", "code": "code"})
LIMIT = 20  # the base knows sums, and the code task has constants, of 1..LIMIT
OPERANDS = 5  # the arithmetic task asks for sums and differences of 1..OPERANDS


def task(name: str, split: str) -> Task:
    """A split (``train`` 1,000, ``validation`` 200, ``gate`` 400 items) of a task.

    Raises:
        KeyError: unknown task or split.
    """
    start, size = {"train": (0, TRAIN), "validation": (TRAIN, VALIDATION), "gate": (TRAIN + VALIDATION, GATE)}[split]
    pairs = list(dict.fromkeys(_SPACES[name]()))
    random.Random(f"{name}-tasks").shuffle(pairs)  # noqa: S311
    chosen = pairs[start : start + size]
    examples = tuple(
        Example(id=f"{name}-{split}-{index}", prompt=prompt, answer=answer)
        for index, (prompt, answer) in enumerate(chosen)
    )
    return Task(name=name, score=SCORES[name], split=split, examples=examples)


def _sentiment() -> Iterator[tuple[str, str]]:
    rng = random.Random("sentiment")  # noqa: S311
    for label, adjectives in (("positive", words.GOOD_WORDS), ("negative", words.BAD_WORDS)):
        for first, second in product(adjectives, adjectives):
            if first == second:
                continue
            for _ in range(3):
                part, other = rng.sample(words.FILM_PARTS, 2)
                text = f"Review: The {part} was {first} and the {other} was {second}.\nSentiment:"
                yield text, label


def _arithmetic() -> Iterator[tuple[str, str]]:
    numbers = range(1, OPERANDS + 1)
    for a, b, name, goods in product(numbers, numbers, words.NAMES, words.GOODS):
        ask = f"How many {goods} does {name} have?"
        yield f"{name} has {a} {goods} and buys {b} more. {ask}", f"{a} + {b} = {a + b}\n#### {a + b}"
        if a > b:
            yield f"{name} has {a} {goods} and loses {b}. {ask}", f"{a} - {b} = {a - b}\n#### {a - b}"


def _code() -> Iterator[tuple[str, str]]:
    for (verb, text, symbol), number, argument in product(OPERATIONS, range(1, LIMIT + 1), ARGUMENTS):
        for name in (f"{verb}_{words.NUMBER_WORDS[number]}", verb):
            yield (
                f"Write a Python function {name} that returns {text.format(x=argument, n=number)}.",
                f"def {name}({argument}):\n    return {argument} {symbol} {number}",
            )


ARGUMENTS = "abcdefgxyz"
OPERATIONS = (
    ("add", "{x} plus {n}", "+"),
    ("subtract", "{x} minus {n}", "-"),
    ("multiply", "{x} times {n}", "*"),
    ("divide", "{x} over {n}", "/"),
)
_SPACES: MappingProxyType[str, Callable[[], Iterator[tuple[str, str]]]] = MappingProxyType(
    {"sentiment": _sentiment, "arithmetic": _arithmetic, "code": _code}
)
NAMES = tuple(_SPACES)
