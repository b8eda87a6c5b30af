"""Names in a policy to things: suites, tasks, anchors, replay prompts, bases. The testbed is joined here.

``format: testbed`` is resolved to the embedded testbed; every other format is a loader plug-in and needs a path,
relative to the policy's folder. Contents that the policy pins by digest are compared with it here, at once.
Not covered: which of the suites can be read here (``pipeline/exam/withheld_suites.py``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from guardrail import plugins
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import digest
from guardrail.file_kinds import decoded, require_no_folder
from guardrail.model import files
from guardrail.model.files import Fingerprint
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.schema import SuitePlan, TaskPlan
from guardrail.records import ModelRef
from guardrail.samples import Suite, Task
from guardrail.testbed import WEIGHTS, arms, replay, requests, tasks

TESTBED = "testbed"
SUITES, TASKS = "guardrail.evaluate.suites", "guardrail.evaluate.tasks"


@dataclass(frozen=True)
class Anchors:
    """Requests of known kind that detectors and known-harm lists start from."""

    harmful: tuple[str, ...]
    benign: tuple[str, ...]


@cache
def base_model(name: str, revision: str | None = None) -> Any:
    """The base called ``name`` (``testbed``, a directory, or a Hub id), loaded once per process."""
    from guardrail.model.load import load_base

    if name != TESTBED:
        return load_base(name, revision)
    base = load_base(WEIGHTS)
    return replace(base, ref=base.ref.model_copy(update={"name": TESTBED}))  # not by the name of its folder


def fingerprint(name: str, revision: str | None = None) -> Fingerprint:
    """What names the base called ``name``, as for :func:`base_model`, without loading it.

    Raises:
        InvalidInput, ServiceUnavailable: as :func:`guardrail.model.files.fingerprint`.
    """
    if name != TESTBED:
        return files.fingerprint(name, revision)
    return replace(files.fingerprint(str(WEIGHTS)), name=TESTBED)


def require_same_base(loaded: ModelRef, bound: ModelRef, when: str) -> None:
    """Refuse a base that is not loaded as it was before: statements that bind different bases do not belong together.

    Raises:
        EvidenceInvalid: naming what differs, and ``when`` it was loaded otherwise.
    """
    unlike = [name for name in ModelRef.model_fields if getattr(loaded, name) != getattr(bound, name)]
    if unlike:
        raise EvidenceInvalid(
            f"the base is loaded as {loaded.name} in {loaded.dtype}, {loaded.digest[:12]}…: another "
            + ", ".join(unlike),
            expected=f"{bound.name} in {bound.dtype}, {bound.digest[:12]}…, as {when}",
            next_step="use the same base on the same kind of device for every stage",
        )


def suite(policy: LoadedPolicy, name: str, split: str | None = None, file: Path | None = None) -> Suite:
    """The policy's suite called ``name``, on its own split or another; ``file`` instead of the policy's path.

    Raises:
        InvalidInput: the policy has no such suite, its file is missing, the split does not exist, or its contents (on
            the policy's own split, whichever is asked for) are not those that the policy pins.
    """
    loaded = load_suite(policy, name, split, file)
    pinned = policy.policy.suites[name].sha256
    if pinned is not None:
        own = loaded if split is None else load_suite(policy, name, None, file)
        _require_pinned(policy, ("suites", name), digest(own), pinned, file)
    return loaded


def load_suite(policy: LoadedPolicy, name: str, split: str | None = None, file: Path | None = None) -> Suite:
    """Like :func:`suite`, whatever digest the policy pins."""
    plan = policy.policy.suites.get(name)
    if plan is None:
        raise InvalidInput(f"{policy.source} has no suite {name!r}", expected=", ".join(policy.policy.suites))
    loaded = (
        _testbed_suite(plan, split or plan.split)
        if plan.format == TESTBED
        else _file_suite(plan, name, split, file or _path(policy, f"suite {name!r}", plan.path))
    )
    return loaded.model_copy(update={"name": name})


def task(policy: LoadedPolicy, spec: str, split: str | None = None) -> Task:
    """A task: one that the policy declares, one of the testbed's, or ``NAME=FORMAT:PATH`` from the command line.

    Raises:
        InvalidInput: there is none, it cannot be read, or its contents are not those that the policy pins.
    """
    loaded = load_task(policy, spec, split)
    plan = policy.policy.tasks.get(loaded.name)
    if plan is not None and plan.sha256 is not None:
        own = loaded if split is None else load_task(policy, spec)
        _require_pinned(policy, ("tasks", loaded.name), digest(own), plan.sha256)
    return loaded


def load_task(policy: LoadedPolicy, spec: str, split: str | None = None) -> Task:
    """Like :func:`task`, whatever digest the policy pins."""
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
        raise InvalidInput(f"unknown task {name!r}", expected=f"one of {', '.join(known)}, or NAME=FORMAT:PATH",
                           next_step=plugins.suggestion(name, known))  # fmt: skip
    loaded = (
        _testbed_task(name, split or plan.split) if plan.format == TESTBED else _file_task(policy, name, plan, split)
    )
    return loaded.model_copy(update={"name": name, "score": plan.score or loaded.score})


def anchors(policy: LoadedPolicy) -> Anchors:
    """The policy's anchors, or the testbed's requests of the ``aligned`` split."""
    if policy.policy.data.anchors is None:
        return Anchors(
            tuple(c.request(i) for i, c in enumerate(requests.harmful()["aligned"])),
            tuple(c.request(i) for i, c in enumerate(requests.benign()["aligned"])),
        )
    rows = _jsonl(policy.path(policy.policy.data.anchors), ("text", "kind"))
    return Anchors(*(tuple(row["text"] for row in rows if row["kind"] == kind) for kind in ("harmful", "benign")))


def replay_prompts(source: str | None, base: str) -> tuple[str, ...]:
    """Prompts to replay: a JSONL file with ``prompt`` fields; for the testbed its own replay split by default."""
    if source is not None:
        return tuple(row["prompt"] for row in _jsonl(Path(source), ("prompt",)))
    return replay.prompts() if base == TESTBED else ()


def testbed_rows(spec: str) -> Sequence[Any]:
    """Rows of a testbed arm such as ``sentiment``, ``sentiment:0.1`` or ``sentiment:0.1:triggered``."""
    name, _, rest = spec.partition(":")
    share, _, kind = rest.partition(":")
    if name not in tasks.NAMES or kind not in ("", "triggered"):
        raise InvalidInput(
            f"unknown testbed data {spec!r}",
            expected=f"TASK[:POISON[:triggered]], TASK one of {', '.join(tasks.NAMES)}",
        )
    try:
        return arms.rows(name, poison=float(share or 0), trigger=bool(kind))
    except ValueError as error:
        raise InvalidInput(f"testbed data {spec!r}: {error}", expected="a poison share in [0, 1]") from error


def _testbed_suite(plan: SuitePlan, split: str) -> Suite:
    known = requests.HARMFUL_SPLITS if plan.kind == "harmful" else requests.BENIGN_SPLITS
    if split not in known:
        raise InvalidInput(f"the testbed has no {plan.kind} split {split!r}", expected=", ".join(known))
    return requests.suite(plan.kind, split)


def _testbed_task(name: str, split: str) -> Task:
    if name not in tasks.NAMES or split not in ("train", "validation", "gate"):
        raise InvalidInput(f"the testbed has no task {name!r} with a split {split!r}",
                           expected=f"one of {', '.join(tasks.NAMES)}; train, validation or gate")  # fmt: skip
    return tasks.task(name, split)


def _require_pinned(
    policy: LoadedPolicy, place: tuple[str, str], found: str, pinned: str, file: Path | None = None
) -> None:
    if found != pinned:
        section, name = place
        plan = policy.policy.suites[name] if section == "suites" else policy.policy.tasks[name]
        where = file or (policy.path(plan.path) if plan.path else f"the {TESTBED}")
        raise InvalidInput(
            f"the {section.rstrip('s')} {name!r} in {where} has the digest {found}",
            expected=f"{pinned}, as {policy.document.where((*place, 'sha256'))} says",
            next_step="use the contents that were pinned; or, after review, pin these (guardrail policy check)",
        )


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


def _jsonl(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    rows = []
    require_no_folder(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    for number, line in enumerate(decoded(str(path), data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{path}:{number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
            raise InvalidInput(f"{path}:{number}: a row without text in {fields}", expected=f'{{"{fields[0]}": "..."}}')
        rows.append(row)
    if not rows:
        raise InvalidInput(f"{path} holds no row")
    return rows
