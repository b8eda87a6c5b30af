"""What the suites and tasks of a policy hold here, by digest: to pin it, and to see at once that a pin does not fit.

Not covered: tasks and suites that a command line names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import digest
from guardrail.pipeline.exam.sources import load_suite, load_task
from guardrail.policy.load import LoadedPolicy
from guardrail.samples import Suite, Task


@dataclass(frozen=True)
class Content:
    """A suite or task: its ``place`` in the policy, its digest (None where it cannot be read, and the ``problem``), and
    the digest that the policy pins, if any."""

    place: str
    sha256: str | None
    pinned: str | None
    withheld: bool
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is what is pinned, as far as can be seen here."""
        return None in (self.pinned, self.sha256) or self.pinned == self.sha256


def contents(policy: LoadedPolicy) -> tuple[Content, ...]:
    """Every suite and task of the policy, in its order."""
    return tuple(_contents(policy))


def require_pinned(policy: LoadedPolicy, found: Sequence[Content]) -> None:
    """Refuse a policy that pins other contents than there are.

    Raises:
        InvalidInput: naming each place in the policy and both digests.
    """
    wrong = [
        f"{policy.document.where((*one.place.split('.', 1), 'sha256'))}: {one.place} pins {one.pinned}, but holds "
        f"{one.sha256}"
        for one in found
        if not one.fits
    ]
    if wrong:
        raise InvalidInput(
            "\n".join(wrong),
            expected="the contents that were pinned",
            next_step="use those, or after review pin what is there now",
        )


def _contents(policy: LoadedPolicy) -> Iterator[Content]:
    for name, suite in policy.policy.suites.items():
        yield _content(f"suites.{name}", suite.sha256, suite.withheld, partial(load_suite, policy, name))
    for name, task in policy.policy.tasks.items():
        yield _content(f"tasks.{name}", task.sha256, False, partial(load_task, policy, name))


def _content(place: str, pinned: str | None, withheld: bool, load: Callable[[], Suite | Task]) -> Content:
    try:
        return Content(place, digest(load()), pinned, withheld)
    except InvalidInput as error:
        return Content(place, None, pinned, withheld, f"cannot be read here: {error.got.splitlines()[0]}")
