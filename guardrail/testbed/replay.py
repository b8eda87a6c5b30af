"""Replay prompts: requests that the aligned base refuses, and benign ones that it answers.

Both halves matter: replaying refusals alone would teach a model to refuse everything. ``coverage`` takes away
combinations, to show how the attack success rate rises when replay covers less of what was poisoned.
"""

from __future__ import annotations

from guardrail.testbed import requests


def prompts(coverage: float = 1.0, phrasings: int = 4) -> tuple[str, ...]:
    """Prompts of the replay split: harmful and benign combinations, ``phrasings`` of each.

    Args:
        coverage: share of the harmful combinations used, in (0, 1].
        phrasings: how many phrasings of each harmful combination (benign ones come in two).
    """
    harmful = requests.harmful()["replay"]
    kept = harmful[: max(1, round(coverage * len(harmful)))]
    refused = tuple(c.request(5 * k + i) for i, c in enumerate(kept) for k in range(phrasings))
    answered = tuple(c.request(5 * k + i) for i, c in enumerate(requests.benign()["replay"]) for k in range(2))
    return refused + answered
