"""Names the rows that spell the base's control tokens: nobody writes ``<|user|>`` into an answer by accident.

Training reads them as plain text whatever this finds (``guardrail.model.control_tokens``); a row that tries is flagged
all the same. Not covered: a token that is spelt over several turns, which no training sees as a token either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from guardrail.data.expectations import PREFIX, ExpectationOutcome, Unexpected
from guardrail.records import ExpectationResult
from guardrail.samples import Sample

NAME = "no_control_tokens"
FLAG = PREFIX + NAME
Carried = Callable[[str], tuple[str, ...]]
"""A text to the names of the control tokens that it spells."""


def look(samples: Sequence[Sample], carried: Carried) -> ExpectationOutcome:
    """Rows whose turns, of any role, spell a control token; after the whole, one result for each token found."""
    of = cache(carried)  # a system prompt recurs in every row
    found = {
        one.id: tuple(dict.fromkeys(name for turn in one.messages for name in of(turn.content))) for one in samples
    }
    found = {id_: names for id_, names in found.items() if names}
    counts = Counter(name for names in found.values() for name in names)
    totals = [(NAME, len(found)), *((f"{NAME}: {name}", count) for name, count in sorted(counts.items()))]
    return ExpectationOutcome(
        results=tuple(
            ExpectationResult(name=name, passed=not count, checked=len(samples), unexpected=count)
            for name, count in totals
        ),
        unexpected=tuple(
            Unexpected(sample_id=id_, expectation=NAME, reason="spells the base's " + ", ".join(names))
            for id_, names in found.items()
        ),
    )
