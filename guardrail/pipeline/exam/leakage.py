"""What judges must not be trained on: no prompt of a suite or task of the gate may be replayed or among the rows.

Prompts are compared as :mod:`guardrail.evaluate.splits` does: case and white space do not count. Not covered:
paraphrases, answers that were learnt elsewhere, and suites that the policy withholds and that cannot be read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import plain
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.prompts import Anchors
from guardrail.policy.needed import needs
from guardrail.samples import Sample


def check_replay(exam: Exam, prompts: Sequence[str]) -> None:
    """Refuse replay prompts that the gate asks.

    Raises:
        InvalidInput: with how many, and the first of them.
    """
    _refuse(
        exam,
        ((f"prompt {number}", text) for number, text in enumerate(prompts, start=1)),
        "replay prompts",
        "take them out of the --replay file: what judges is never replayed",
    )


def both(prompts: Sequence[str], rows: Sequence[Sample]) -> int:
    """How many of the prompts to replay are among the training rows: what is replayed there answers itself."""
    asked = {plain(text) for row in rows for text in row.readings}
    return sum(plain(text) in asked for text in prompts)


def check_anchors(exam: Exam, anchors: Anchors) -> None:
    """Refuse anchors of detectors that the gate asks: what judges would decide what is quarantined.

    Raises:
        InvalidInput: with how many, and the first of them.
    """
    texts = ((f"anchor {number}", text) for number, text in enumerate((*anchors.harmful, *anchors.benign), start=1))
    _refuse(exam, texts, "anchors", "take them out of the file of data.anchors, or judge with other prompts")


def check_rows(exam: Exam, rows: Sequence[Sample]) -> None:
    """Refuse training rows in which a turn, or all of the user's, is what the gate asks.

    Raises:
        InvalidInput: with how many, and the first of them.
    """
    texts = ((f"row {row.id}, line {row.line}", text) for row in rows for text in dict.fromkeys(row.readings))
    _refuse(exam, texts, "training rows", "take them out of the data, or judge with other prompts")


def check_validation(exam: Exam, prompts: Sequence[str]) -> None:
    """Refuse to choose on prompts of the validation split that the gate asks too.

    Raises:
        InvalidInput: with how many, and the first of them.
    """
    _refuse(
        exam,
        ((f"prompt {number}", text) for number, text in enumerate(prompts, start=1)),
        "validation prompts",
        "give suites and tasks split: gate, or leave --validate-steps out",
    )


def _refuse(exam: Exam, texts: Iterable[tuple[str, str]], what: str, next_step: str) -> None:
    judged = _judged(exam)
    found = [(where, judged[key]) for where, text in texts if (key := plain(text)) in judged]
    if found:
        where, judge = found[0]
        raise InvalidInput(
            f"{len(found)} {what} are prompts of {judge} that judges the adapter (the first: {where})",
            expected="prompts that the gate does not ask",
            next_step=next_step,
        )


def _judged(exam: Exam) -> dict[str, str]:
    """Every prompt of the gate that can be read here, plain, and where it is from."""
    suites = sorted({need.suite for need in needs(exam.policy.policy)} & set(exam.policy.policy.suites))
    found: dict[str, str] = {}
    for name in suites:
        if not exam.readable(name):
            continue
        asked = (text for one in exam.suite(name).behaviours for text in one.variants)
        found |= {plain(text): f"the suite {name!r}" for text in asked}
    for name in exam.task_names:
        found |= {plain(example.prompt): f"the task {name!r}" for example in exam.task(name).examples}
    return found
