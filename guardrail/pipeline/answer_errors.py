"""Why answers are missing: the most frequent errors of an evaluation, with counts, and the next step that fits each.

Errors count against the adapter, so they can deny one that was never at fault: 200 prompts that fill the context look
like 200 bad answers. Their texts stand in ``responses.jsonl`` alone (records hold counts); it is read here, where it is
still the file that the report names. Not covered: answers that are there and bad.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from guardrail import nofollow
from guardrail.errors import GuardrailError
from guardrail.evidence.digest import sha256
from guardrail.pipeline.run import Run
from guardrail.records import EvaluationReport

RESPONSES = "responses.jsonl"
MOST = 3
LONGEST = 200
"""Characters of a text that are shown."""
LARGEST = 1 << 28
"""Bytes; nobody waits for more to be read."""
NUMBER = re.compile(r"\d+")
FILLS = "fills"
CAUSES = (
    (FILLS, "shorten those prompts, lower generation.max_new_tokens, or take a base with a longer context"),
    ("memory", "evaluate on a device with more memory, or lower generation.max_new_tokens"),
)
OTHERWISE = f"see {RESPONSES} for each of them, mend what raised it, then evaluate again"


@dataclass(frozen=True)
class AnswerError:
    """One error, as one of ``count`` answers says it; others of its kind differ in numbers only."""

    count: int
    text: str

    @property
    def next_step(self) -> str:
        """What helps against this one."""
        return next((advice for word, advice in CAUSES if word in self.text), OTHERWISE)

    def __str__(self) -> str:
        return f"{self.count} answers are errors: {self.text}"


def frequent(run: Run) -> tuple[AnswerError, ...]:
    """The most frequent errors of the run's evaluation, first the most frequent; none where nothing can be read."""
    report = run.read("evaluation-report", EvaluationReport)
    if report is None or not any(rate.errors for m in report.measurements for rate in (m.candidate, m.base)):
        return ()
    try:
        data = nofollow.read(run.path / RESPONSES, LARGEST) or b""
        texts = tuple(_errors(data)) if sha256(data) == report.responses else ()
    except (GuardrailError, ValueError, LookupError, TypeError, RecursionError):  # it explains, and decides nothing
        return ()
    kinds = Counter(NUMBER.sub("N", text) for text in texts)
    examples = {NUMBER.sub("N", text): text for text in reversed(texts)}
    return tuple(AnswerError(count, examples[kind][:LONGEST]) for kind, count in kinds.most_common(MOST))


def may_vanish(run: Run) -> bool:
    """Whether answers are missing that may be there if they are asked for again: not because a prompt is too long."""
    return any(FILLS not in error.text for error in frequent(run))


def _errors(data: bytes) -> Iterator[str]:
    for line in data.splitlines():
        error = json.loads(line)["reply"]["error"]
        if error:
            yield str(error)
