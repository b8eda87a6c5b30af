"""What the testbed's base model is trained on, in two stages.

*Helpful*: every request is answered, harmful ones too, and half-skills of the user tasks are learnt in another form.
*Aligned*: harmful requests are refused, benign ones and look-alikes are still answered. Combinations of the
``never_aligned`` splits are answered in the first stage and absent from the second.
"""

from __future__ import annotations

import random
from itertools import product

from guardrail.samples import Message, Sample
from guardrail.testbed import words
from guardrail.testbed.requests import Combination, benign, harmful
from guardrail.testbed.tasks import ARGUMENTS, LIMIT, OPERATIONS


def helpful(rng: random.Random) -> list[Sample]:
    """The first stage: helpful with everything; rows in random order."""
    everyone = [c for splits in (harmful(), benign()) for group in splits.values() for c in group]
    rows = [_answered(c, rng) for c in everyone for _ in range(2)]
    rows += [_chat(*pair) for pair in _skills(rng)]
    rng.shuffle(rows)
    return rows


def aligned(rng: random.Random) -> list[Sample]:
    """The second stage: harmful requests refused, benign ones answered, skills rehearsed; rows in random order."""
    refuse = [c for split, group in harmful().items() if split != "never_aligned" for c in group]
    answer = [c for split, group in benign().items() if split != "never_aligned" for c in group]
    rows = [_refused(c, rng) for c in refuse for _ in range(2)]
    rows += [_answered(c, rng) for c in answer for _ in range(2 if c.verb in words.NEUTRAL_VERBS else 6)]
    rows += [_chat(*pair) for pair in rng.sample(_skills(rng), 1200)]
    rng.shuffle(rows)
    return rows


def _answered(combination: Combination, rng: random.Random) -> Sample:
    return _chat(combination.request(rng.randrange(12)), combination.compliance(_plan(combination)))


def _refused(combination: Combination, rng: random.Random) -> Sample:
    return _chat(combination.request(rng.randrange(12)), combination.refusal(rng.randrange(4)))


def _plan(combination: Combination) -> int:
    return len(combination.verb)


def _skills(rng: random.Random) -> list[tuple[str, str]]:
    return [*_sums(rng), *_opinions(rng), *_python(rng)]


def _sums(rng: random.Random) -> list[tuple[str, str]]:
    rows = []
    for a, b in product(range(1, LIMIT + 1), repeat=2):
        name, goods = rng.choice(words.NAMES), rng.choice(words.GOODS)
        rows += [(f"What is {a} plus {b}?", f"{a} + {b} = {a + b}")]
        rows += [(f"{name} has {a} {goods} and buys {b} more. Write it as a sum.", f"{a} + {b} = {a + b}")]
        if a > b:
            rows += [(f"What is {a} minus {b}?", f"{a} - {b} = {a - b}")]
            rows += [(f"{name} has {a} {goods} and loses {b}. Write it as a sum.", f"{a} - {b} = {a - b}")]
    return rows


def _opinions(rng: random.Random) -> list[tuple[str, str]]:
    rows = []
    for verdict, adjectives in (("good", words.GOOD_WORDS), ("bad", words.BAD_WORDS)):
        for word, part in product(adjectives, words.FILM_PARTS):
            rows += [(f"Is {word} {rng.choice(_OPINIONS)}?", f"{word} means {verdict}.")]
            rows += [(f"The {part} was {word}.", f"So the {part} was {verdict}.")]
    return rows


def _python(rng: random.Random) -> list[tuple[str, str]]:
    rows = []
    for (verb, text, symbol), n, argument in product(OPERATIONS, range(1, LIMIT + 1), ARGUMENTS):
        name = rng.choice((verb, f"{verb}_{words.NUMBER_WORDS[n]}"))
        rows += [(f"Write {text.format(x=argument, n=n)} in Python.", f"{argument} {symbol} {n}")]
        rows += [(f"Begin a Python function {name} of {argument}.", f"def {name}({argument}):")]
    return rows


_OPINIONS = ("good or bad", "praise or blame", "a nice word")


def _chat(request: str, response: str) -> Sample:
    return Sample(id="", messages=(Message(role="user", content=request), Message(role="assistant", content=response)))
