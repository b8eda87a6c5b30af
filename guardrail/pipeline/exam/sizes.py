"""Whether what lies here is enough for the policy: a limit that asks for more items than there are never holds.

Counted is what the rules count: behaviours of suites and examples of tasks, on the split that the gate asks.
Not covered: suites that are withheld and cannot be read here, and whether a number of items can prove a limit at all
(``guardrail.policy.soundness``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from guardrail.errors import InvalidInput
from guardrail.pipeline.exam.exam import Exam
from guardrail.policy.rules import Limits, Need, load_rule
from guardrail.records import Sli
from guardrail.yaml_document import Path as Place


def too_small(exam: Exam) -> tuple[str, ...]:
    """A line for every limit that can never hold, with its place in the policy, what it asks for and what there is.

    Raises:
        InvalidInput: a suite or task that is not withheld cannot be read.
    """
    return tuple(line for index, limits in enumerate(exam.policy.policy.rules) for line in _lines(exam, index, limits))


def require_enough(exam: Exam) -> None:
    """Refuse a policy that can never pass with what lies here.

    Raises:
        InvalidInput: see above.
    """
    if lines := too_small(exam):
        refuse(lines)


def refuse(lines: tuple[str, ...]) -> NoReturn:
    """The refusal of these lines."""
    raise InvalidInput(
        "\n".join(lines),
        expected="as many items as min_n asks for",
        next_step="lower min_n, if the limit can still be proven with it, or add items to the suite or task",
    )


def _lines(exam: Exam, index: int, limits: Limits) -> Iterator[str]:
    least = getattr(limits, "min_n", 0)
    place: Place = ("rules", index, "min_n")
    for need in load_rule(limits.rule).needs(limits) if least else ():
        for what, found in _counted(exam, need):
            if not found >= least:
                yield (
                    f"{exam.policy.document.where(place)}: {limits.rule}: min_n: {least}, but {what} has {found} items"
                )


def _counted(exam: Exam, need: Need) -> Iterator[tuple[str, int]]:
    """Each suite or task that the rule judges, and how many items it has."""
    if need.sli is Sli.UTILITY:
        for name in (need.suite,) if need.suite else exam.task_names:
            yield f"the task {name!r}", len(exam.task(name).examples)
    elif exam.readable(need.suite):
        yield f"the suite {need.suite!r}", len(exam.suite(need.suite).behaviours)
