"""SafeInstruct: mix safety examples into the user's rows and fine-tune plainly on both.

The rows added are the replay prompts with the base's own answers, ``share`` of the user's rows, drawn without
replacement where there are enough. Source: Bianchi et al., "Safety-Tuned LLaMAs", ICLR 2024 (arXiv 2309.07875), which
mixes in a few percent; a defence that continual learning is measured against.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import MappingProxyType

from guardrail.model.chat import Encoded
from guardrail.train.methods import Method


class SafeInstruct(Method):
    """L = CE(user and safety rows)."""

    needs_replay = True
    defaults = MappingProxyType({"share": 0.1})
    positive = frozenset({"share"})

    def rows(self, user: Sequence[Encoded], replay: Sequence[Encoded], seed: int) -> list[Encoded]:
        """The user's rows and, after them, the safety rows (the trainer shuffles)."""
        count = max(1, round(self.number("share") * len(user)))
        rng = random.Random(f"safe_instruct {seed}")  # noqa: S311
        mixed: list[Encoded] = []
        while len(mixed) < count:
            mixed += rng.sample(list(replay), min(len(replay), count - len(mixed)))
        return [*user, *mixed]


METHOD = SafeInstruct
