"""Names in a policy to suites and tasks, each read from where it lies. The testbed is joined here.

``format: testbed`` is the embedded testbed; every other format is a loader plug-in and needs a path, relative to the
policy's folder. Not covered: whether contents are those that the policy pins, which suites can be read here, and
reading each only once (``exam.py``).
"""

from __future__ import annotations

from pathlib import Path

from guardrail import plugins
from guardrail.errors import InvalidInput
from guardrail.pipeline.base import TESTBED
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.schema import SuitePlan, TaskPlan
from guardrail.samples import Suite, Task
from guardrail.testbed import requests, tasks

SUITES, TASKS = "guardrail.evaluate.suites", "guardrail.evaluate.tasks"


def load_suite(policy: LoadedPolicy, name: str, split: str | None = None, file: Path | None = None) -> Suite:
    """The policy's suite called ``name``, on its own split or another; ``file`` instead of the policy's path.

    Raises:
        InvalidInput: the policy has no such suite, its file is missing, or the split does not exist.
    """
    plan = policy.policy.suites.get(name)
    if plan is None:
        raise InvalidInput(f"{policy.source} has no suite {name!r}", expected=", ".join(policy.policy.suites))
    loaded = (
        _testbed_suite(plan, split or plan.split)
        if plan.format == TESTBED
        else _file_suite(plan, name, split, file or _path(policy, f"suite {name!r}", plan.path))
    )
    return loaded.model_copy(update={"name": name})


def load_task(policy: LoadedPolicy, spec: str, split: str | None = None) -> Task:
    """A task: one that the policy declares, one of the testbed's, or ``NAME=FORMAT:PATH`` from the command line.

    Raises:
        InvalidInput: there is none, or it cannot be read.
    """
    name, equals, rest = spec.partition("=")
    plan = policy.policy.tasks.get(name)
    if equals:
        if plan is not None:
            raise InvalidInput(
                f"--task {spec!r}: the policy {policy.source} declares the task {name!r} itself",
                expected="a name that the policy does not declare",
                next_step=f"leave the option out: {name} is measured as the policy says",
            )
        form, _, path = rest.partition(":")
        if not form or not path:
            raise InvalidInput(f"--task {spec!r}", expected="NAME=FORMAT:PATH, such as sums=gsm8k:test.jsonl")
        plugins.load(TASKS, form)
        plan = TaskPlan(format=form, path=str(Path(path).resolve()))
    elif plan is None and name in tasks.NAMES:
        plan = TaskPlan(format=TESTBED)
    if plan is None:
        known = (*policy.policy.tasks, *tasks.NAMES)
        raise InvalidInput(
            f"unknown task {name!r}",
            expected=f"one of {', '.join(known)}, or NAME=FORMAT:PATH",
            next_step=plugins.suggestion(name, known),
        )
    loaded = (
        _testbed_task(name, split or plan.split) if plan.format == TESTBED else _file_task(policy, name, plan, split)
    )
    return loaded.model_copy(update={"name": name, "score": plan.score or loaded.score})


def _testbed_suite(plan: SuitePlan, split: str) -> Suite:
    known = requests.HARMFUL_SPLITS if plan.kind == "harmful" else requests.BENIGN_SPLITS
    if split not in known:
        raise InvalidInput(f"the testbed has no {plan.kind} split {split!r}", expected=", ".join(known))
    return requests.suite(plan.kind, split)


def _testbed_task(name: str, split: str) -> Task:
    if name not in tasks.NAMES or split not in ("train", "validation", "gate"):
        raise InvalidInput(
            f"the testbed has no task {name!r} with a split {split!r}",
            expected=f"one of {', '.join(tasks.NAMES)}; train, validation or gate",
        )
    return tasks.task(name, split)


def _file_suite(plan: SuitePlan, name: str, split: str | None, path: Path) -> Suite:
    loader = plugins.load(SUITES, plan.format)
    columns = plan.columns.model_dump(exclude_none=True) if plan.columns else None
    loaded: Suite = loader.load(path, name=name, kind=plan.kind, split=split or plan.split, columns=columns)
    return loaded


def _file_task(policy: LoadedPolicy, name: str, plan: TaskPlan, split: str | None) -> Task:
    loader = plugins.load(TASKS, plan.format)
    columns = plan.columns.model_dump(exclude_none=True) if plan.columns else None
    path = _path(policy, f"task {name!r}", plan.path)
    loaded: Task = loader.load(path, name=name, split=split or plan.split, columns=columns)
    return loaded


def _path(policy: LoadedPolicy, what: str, path: str | None) -> Path:
    if path is None:
        raise InvalidInput(f"{policy.source}: {what} names no file", next_step="add path: FILE to it")
    return policy.path(path)
