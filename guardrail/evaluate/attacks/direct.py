"""No attack: every variant is asked as it stands."""

from __future__ import annotations

from collections.abc import Iterable

from guardrail.evaluate.attacks import Prompt
from guardrail.samples import Behaviour


def prompts(behaviour: Behaviour) -> Iterable[Prompt]:
    """One prompt for each variant."""
    for index, text in enumerate(behaviour.variants):
        yield Prompt(behaviour_id=behaviour.id, variant=index, text=text)
