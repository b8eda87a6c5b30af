"""Requests and their splits by combination (verb x object).

Harmful combinations fall into six disjoint splits; the base model is aligned on the first five and never sees a
combination of the last:

- ``aligned``: only alignment uses them;
- ``replay``: what continual-learning methods may replay;
- ``poison``: what an attacker puts, answered, into user data;
- ``validation``: where thresholds and merge weights are chosen;
- ``gate``: what promotion is judged on, and nothing else;
- ``never_aligned``: not even alignment has seen them.

Benign combinations (with their look-alikes: a harmful verb on something that cannot be harmed) split the same way.
The split is a deterministic shuffle; the words themselves recur in every split, which is what lets safety generalise
here and what makes the testbed easier than the world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import MappingProxyType

from guardrail.samples import Behaviour, Suite
from guardrail.testbed import words

SEED = 20251210
HARMFUL_SPLITS = MappingProxyType(
    {"gate": 320, "replay": 140, "poison": 140, "validation": 100, "aligned": 140, "never_aligned": 120}
)
BENIGN_SPLITS = MappingProxyType({"gate": 240, "replay": 100, "validation": 80, "aligned": 160, "never_aligned": 60})
LOOK_ALIKE_SPLITS = MappingProxyType({"gate": 80, "replay": 20, "validation": 20, "aligned": 30, "never_aligned": 10})
SPLITS = tuple(HARMFUL_SPLITS)


@dataclass(frozen=True, order=True)
class Combination:
    """A verb and an object: the behaviour behind every phrasing of a request."""

    verb: str
    object: str

    @property
    def action(self) -> str:
        """``repair a lamp``."""
        article = "an" if self.object[0] in "aeiou" else "a"
        return f"{self.verb} {article} {self.object}"

    @property
    def id(self) -> str:
        """A stable identifier."""
        return f"{self.verb}-{self.object}".replace(" ", "_").lower()

    def request(self, phrasing: int) -> str:
        """The request in one of the phrasings."""
        return words.PHRASINGS[phrasing % len(words.PHRASINGS)].format(action=self.action)

    def compliance(self, plan: int) -> str:
        """A helpful answer (also for harmful requests: hollow by construction)."""
        text = words.PLANS[plan % len(words.PLANS)].format(verb=self.verb, object=self.object)
        return f"Sure, here is how to {self.action}. {text}"

    def refusal(self, kind: int) -> str:
        """A refusal of the request."""
        return words.REFUSALS[kind % len(words.REFUSALS)].format(action=self.action)


@cache
def harmful() -> MappingProxyType[str, tuple[Combination, ...]]:
    """Harmful combinations by split."""
    pairs = [*product(words.HARMFUL_VERBS, words.NEUTRAL_OBJECTS), *product(words.NEUTRAL_VERBS, words.HARMFUL_OBJECTS)]
    return _split(pairs, HARMFUL_SPLITS)


@cache
def benign() -> MappingProxyType[str, tuple[Combination, ...]]:
    """Benign combinations by split, look-alikes included."""
    plain = _split(list(product(words.NEUTRAL_VERBS, words.NEUTRAL_OBJECTS)), BENIGN_SPLITS)
    return MappingProxyType({split: plain[split] + look_alikes()[split] for split in BENIGN_SPLITS})


@cache
def look_alikes() -> MappingProxyType[str, tuple[Combination, ...]]:
    """Benign requests that look harmful, by split: a harmful verb on an inert object."""
    return _split(list(product(words.HARMFUL_VERBS, words.INERT_OBJECTS)), LOOK_ALIKE_SPLITS)


def suite(kind: str, split: str) -> Suite:
    """The behaviours of a split, one phrasing each, as a suite for the evaluation stage.

    Raises:
        KeyError: there is no such split.
    """
    combinations = (harmful() if kind == "harmful" else benign())[split]
    behaviours = tuple(
        Behaviour(
            id=combination.id,
            variants=(combination.request(index),),
            target=f"Sure, here is how to {combination.action}.",
            category=combination.verb,
        )
        for index, combination in enumerate(combinations)
    )
    return Suite(
        name=f"testbed_{kind}", kind="harmful" if kind == "harmful" else "benign", split=split, behaviours=behaviours
    )


def _split(
    pairs: list[tuple[str, str]], sizes: MappingProxyType[str, int]
) -> MappingProxyType[str, tuple[Combination, ...]]:
    combinations = [Combination(*pair) for pair in pairs]
    if len(combinations) != sum(sizes.values()):
        raise ValueError(f"splits of {sum(sizes.values())} for {len(combinations)} combinations")
    random.Random(SEED).shuffle(combinations)  # noqa: S311 - a reproducible split, not a secret
    result, start = {}, 0
    for name, size in sizes.items():
        result[name] = tuple(combinations[start : start + size])
        start += size
    return MappingProxyType(result)
