"""What a run is examined by: the suites and tasks of its policy and its command line, each read once.

Whoever checks for leaks, chooses, or measures asks one :class:`Exam`, so that what is leak-checked is what is measured.
Contents that the policy pins by digest are compared with it as they are read.
Not covered: what is asked of a model, and in which order (``gate_plans.py``, ``validation.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import digest
from guardrail.pipeline.base import TESTBED
from guardrail.pipeline.exam import withheld_suites
from guardrail.pipeline.exam.sources import load_suite, load_task
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.load import LoadedPolicy
from guardrail.samples import Suite, Task

NamedSplit = tuple[str, str | None]
"""A suite or task, and a split, or None for its own."""


@dataclass(frozen=True)
class Exam:
    """The suites and tasks that a run with this policy and configuration is examined by."""

    policy: LoadedPolicy
    config: RunConfig
    _suites: dict[NamedSplit, Suite] = field(default_factory=dict, init=False, repr=False, compare=False)
    _tasks: dict[NamedSplit, Task] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, run: Run) -> Exam:
        """That of a run that was started.

        Raises:
            InvalidInput: it was not.
        """
        return cls(run.policy(), run.require_config())

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks that utility is measured on: the policy's, and those the run was started with."""
        return tuple(dict.fromkeys((*self.policy.policy.tasks, *self._specs)))

    def readable(self, name: str) -> bool:
        """Whether the suite is to be used here: a withheld one if its file can be read, any other always."""
        return not self._withheld(name) or withheld_suites.opens(self._file(name))

    def suite(self, name: str, split: str | None = None) -> Suite:
        """The policy's suite called ``name``, withheld or not, on its own split or another.

        Raises:
            InvalidInput: the policy has no such suite, it cannot be read here, the split does not exist, or its
                contents (on the policy's own split, whichever is asked for) are not those that the policy pins.
        """
        if (name, split) not in self._suites:
            self._suites[name, split] = self._read_suite(name, split)
        return self._suites[name, split]

    def task(self, name: str, split: str | None = None) -> Task:
        """The task called ``name``: of the policy, the command line or the testbed, on its own split or another.

        Raises:
            InvalidInput: there is none, it cannot be read, or its contents are not those that the policy pins.
        """
        if (name, split) not in self._tasks:
            self._tasks[name, split] = self._read_task(name, split)
        return self._tasks[name, split]

    def _read_suite(self, name: str, split: str | None) -> Suite:
        file = self._file(name) if self._withheld(name) else None
        if self._withheld(name):
            withheld_suites.require_readable(self.policy, name, file)
        plan = self.policy.policy.suites.get(name)
        loaded = load_suite(self.policy, name, split, file)
        if plan is not None and plan.sha256 is not None:
            own = loaded if split is None else self.suite(name)
            self._require_pinned(("suites", name), own, plan.sha256, file)
        return loaded

    def _read_task(self, name: str, split: str | None) -> Task:
        loaded = load_task(self.policy, self._specs.get(name, name), split)
        plan = self.policy.policy.tasks.get(name)
        if plan is not None and plan.sha256 is not None:
            own = loaded if split is None else self.task(name)
            self._require_pinned(("tasks", name), own, plan.sha256)
        return loaded

    @property
    def _specs(self) -> dict[str, str]:
        """Names of tasks to the command line's ``NAME=FORMAT:PATH``, or to themselves."""
        found: dict[str, str] = {}
        for spec in self.config.tasks:
            found.setdefault(spec.partition("=")[0], spec)
        return found

    def _withheld(self, name: str) -> bool:
        return name in withheld_suites.named(self.policy)

    def _file(self, name: str) -> Path | None:
        return withheld_suites.file_of(self.policy, self.config, name)

    def _require_pinned(
        self, place: tuple[str, str], contents: Suite | Task, pinned: str, file: Path | None = None
    ) -> None:
        found, (section, name) = digest(contents), place
        if found != pinned:
            path = self.policy.policy.suites[name].path if section == "suites" else self.policy.policy.tasks[name].path
            where = file or (self.policy.path(path) if path else f"the {TESTBED}")
            raise InvalidInput(
                f"the {section.rstrip('s')} {name!r} in {where} has the digest {found}",
                expected=f"{pinned}, as {self.policy.document.where((*place, 'sha256'))} says",
                next_step="use the contents that were pinned; or, after review, pin these (guardrail policy check)",
            )
