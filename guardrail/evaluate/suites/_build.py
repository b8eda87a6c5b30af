"""What all loaders of suites share: from behaviours to a suite with distinct items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import select
from guardrail.evaluate.suites import Kind
from guardrail.samples import Behaviour, Suite


def build(behaviours: Iterable[Behaviour], *, name: str, kind: Kind, split: str, source: str) -> Suite:
    """The suite of the behaviours in ``split``.

    Raises:
        InvalidInput: a prompt or an id occurs twice (bounds count behaviours as independent), or nothing is left.
    """
    everyone = tuple(behaviours)
    _distinct("prompt", (text for one in everyone for text in one.variants), source)
    _distinct("id", (one.id for one in everyone), source)
    chosen = select(everyone, split, lambda one: one.variants[0], source)
    return Suite(name=name, kind=kind, split=split, behaviours=chosen)


def only(kind: Kind, right: Kind, source: str) -> None:
    """Raise InvalidInput where a suite of one kind is loaded as the other."""
    if kind != right:
        raise InvalidInput(f"{source} is loaded as {kind}", expected=f"kind {right}", next_step=f"write kind: {right}")


def _distinct(what: str, values: Iterable[str], source: str) -> None:
    repeated = sum(count - 1 for count in Counter(values).values())
    if repeated:
        raise InvalidInput(
            f"{source} repeats {repeated} {what}{'s' if repeated > 1 else ''}", expected=f"every {what} once",
            next_step="remove the repetitions: repeated items would make the bound too narrow",
        )  # fmt: skip
