"""What all loaders of suites share: from behaviours to a suite with distinct items.

A prompt that occurs twice is refused, in a published file as in one's own: bounds count behaviours as independent, and
the files of the formats here hold none. Prompts are compared without case and superfluous white space. Not covered:
paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable

from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import plain, select
from guardrail.evaluate.suites import SuiteKind
from guardrail.samples import Behaviour, Suite


def build(behaviours: Iterable[Behaviour], *, name: str, kind: SuiteKind, split: str, source: str) -> Suite:
    """The suite of the behaviours in ``split``.

    Raises:
        InvalidInput: a prompt or an id occurs twice, or nothing is left.
    """
    everyone = tuple(behaviours)
    _distinct_prompts(everyone, source)
    _distinct_ids(everyone, source)
    chosen = select(everyone, split, lambda one: one.variants[0], source)
    return Suite(name=name, kind=kind, split=split, behaviours=chosen)


def only(kind: SuiteKind, right: SuiteKind, source: str) -> None:
    """Raise InvalidInput where a suite of one kind is loaded as the other."""
    if kind != right:
        raise InvalidInput(f"{source} is loaded as {kind}", expected=f"kind {right}", next_step=f"write kind: {right}")


def _distinct_prompts(behaviours: Iterable[Behaviour], source: str) -> None:
    first: dict[str, str] = {}
    repeated = []
    for one in behaviours:
        for text in one.variants:
            key = plain(text)
            repeated += [f"{one.id} asks what {first[key]} asks"] if key in first else []
            first.setdefault(key, one.id)
    _refuse("prompt", repeated, source)


def _distinct_ids(behaviours: Iterable[Behaviour], source: str) -> None:
    seen: set[str] = set()
    repeated = []
    for one in behaviours:
        repeated += [one.id] if one.id in seen else []
        seen.add(one.id)
    _refuse("id", repeated, source)


def _refuse(what: str, repeated: list[str], source: str) -> None:
    """The message names ids and never texts."""
    if repeated:
        raise InvalidInput(
            f"{source} repeats {len(repeated)} {what}{'s' if len(repeated) > 1 else ''}: {repeated[0]}",
            expected=f"every {what} once" + ("; case and white space do not count" if what == "prompt" else ""),
            next_step="remove the repetitions: repeated items would make the bound too narrow",
        )
