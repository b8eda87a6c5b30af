"""Adapters of other runs that a merge takes in: refused unless their run could stand under this run's policy.

The run must be whole (:mod:`guardrail.pipeline.merge.other_run`), name this run's base and policy by digest, and
satisfy this policy's rules about records; its rows must not be what the gate asks; its adapter must be a plain LoRA for
the modules that this run trains. The files are copied, and checked as copied: nothing that happens to the other run
while this one trains matters. Merges of merges are refused: the record names what was merged, not what that was made
of.

Not covered: whether that adapter was trained on the rows that its records name (``docs/evidence.md`` says what
follows).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail import nofollow
from guardrail.data.dataset import load_dataset
from guardrail.errors import InvalidInput, PolicyDenied, ServiceUnavailable
from guardrail.evidence.digest import digest
from guardrail.model.adapter import lora_shapes
from guardrail.model.updates import read_updates
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.leakage import check_rows
from guardrail.pipeline.merge.other_run import Another, holds, read_another, require_files
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import Evidence, Limits, flagged_samples, load_rule, training_method
from guardrail.policy.stage_plans import foreign
from guardrail.records import DataReport, MergedAdapter, Verdict
from guardrail.train.stage import Given

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel


@dataclass(frozen=True)
class MergeFit:
    """What an adapter must fit to be merged in.

    Args:
        exam: what this run is examined by, with its policy.
        base: the base model of this run, loaded.
        targets: the modules that this run's LoRA names; empty for every linear layer but the head.
        baseline: whether a method that the policy forbids is let through (the gate will not).
        own: this run's directory, where there is one.
    """

    exam: Exam
    base: BaseModel
    targets: tuple[str, ...] = ()
    baseline: bool = False
    own: Path | None = None


def read_others(runs: Sequence[Path], wanted: MergeFit) -> tuple[Given, ...]:
    """The adapters of ``runs``, in this order, each checked.

    Raises:
        InvalidInput: a run is this one or given twice, or its base, policy, modules or kind of adapter is another.
        EvidenceMissing: a run has not come as far as an adapter.
        EvidenceInvalid: a run's records and files do not belong together.
        PolicyDenied: the policy forbids a run's method, or the flagged rows that it was trained on.
    """
    if not runs:
        return ()
    shapes = lora_shapes(wanted.base, wanted.targets)
    others = [_read(path, wanted, shapes) for path in runs]
    manifests = [other.record.manifest for other in others]
    for index, (path, one) in enumerate(zip(runs, manifests, strict=True)):
        if one in manifests[:index]:
            raise InvalidInput(
                f"--adapter {path} is the same adapter as --adapter {runs[manifests.index(one)]}",
                expected="every adapter once",
                next_step="leave one of them out",
            )
    return tuple(others)


def check_left_in(policy: LoadedPolicy, others: Sequence[Given], report: DataReport | None = None) -> None:
    """Refuse to merge where all rows together, of the others and of this run, leave too many flagged ones in.

    Raises:
        PolicyDenied: with the count and the limit.
    """
    own = () if report is None else (report,)
    left = flagged_samples.left_in((*own, *(other.record for other in others)))
    for limits in policy.policy.rules:
        if others and isinstance(limits, flagged_samples.Limits) and not left <= limits.max_left_in:
            raise PolicyDenied(
                f"{left} flagged rows were left in the data of this run and of the adapters to be merged in",
                expected=f"at most {limits.max_left_in} in all (flagged_samples of policy {policy.policy.name!r})",
                next_step="merge fewer adapters, or train them on data whose flagged rows were taken out",
            )


def keep(others: Sequence[Given], folder: Path) -> tuple[Given, ...]:
    """Copies of the adapters below ``folder``, checked against their records; whole copies are not made again.

    Raises:
        EvidenceInvalid: an adapter changed since it was read.
        ServiceUnavailable: the disk is full, read-only or otherwise refuses.
    """
    return tuple(replace(other, directory=_kept(other, folder / other.record.manifest)) for other in others)


def _kept(other: Given, target: Path) -> Path:
    expected = other.record.manifest
    if not holds(target, expected):
        nofollow.remove(target)
        try:
            shutil.copytree(other.directory, target, symlinks=True)
        except (OSError, shutil.Error) as error:
            raise ServiceUnavailable(
                f"cannot copy {other.directory} to {target}: {error}",
                next_step="free space, then run the same command again",
            ) from error
        require_files(target, expected, other.directory)
    return target


def _read(path: Path, wanted: MergeFit, shapes: Mapping[str, tuple[int, int]]) -> Given:
    if wanted.own is not None and path.is_dir() and path.samefile(wanted.own):
        raise InvalidInput(
            f"--adapter {path} is the run itself",
            expected="the directories of other runs",
            next_step="leave it out: this run's rows are trained on and merged anyway",
        )
    found = read_another(path)
    _check_fits(found, wanted)
    for limits in wanted.exam.policy.policy.rules:
        _check_rule(found, limits, wanted)
    check_rows(wanted.exam, load_dataset(found.rows).samples)
    _check_modules(found, shapes)
    return Given(found.adapter, _merged(found))


def _merged(found: Another) -> MergedAdapter:
    record, report = found.record, found.report
    return MergedAdapter(
        manifest=record.manifest,
        adapter=digest(record),
        policy=record.policy,
        data=record.data,
        training_digest=record.training_digest,
        base=record.base.digest,
        method=record.method,
        rows=report.training_rows,
        flagged=report.flagged,
        flagged_left_in=report.flagged_left_in,
        detectors=tuple(result.name for result in report.detectors),
        data_plan=report.plan,
        train_plan=record.plan,
    )


def _check_fits(found: Another, wanted: MergeFit) -> None:
    base, policy, record = wanted.base.ref, wanted.exam.policy, found.record
    if record.base.digest != base.digest:
        raise InvalidInput(
            f"{found.path} holds an adapter of another base: {record.base.name} ({record.base.digest[:12]}…)",
            expected=f"the base of this run: {base.name} ({base.digest[:12]}…)",
            next_step="train it again on this base: updates of different bases do not add up",
        )
    if foreign(policy, (found.report, record)):
        raise InvalidInput(
            f"{found.path} was made under another policy ({record.policy[:12]}…)",
            expected=f"this run's policy, {policy.policy.name!r} ({policy.digest[:12]}…), or one with its plans",
            next_step="run it again under this policy: other limits judged its data and its method",
        )
    if record.merged:
        raise InvalidInput(
            f"{found.path} holds a merge with adapters of other runs ({len(record.merged)})",
            expected="an adapter that was trained",
            next_step="give the runs that it was merged from instead",
        )


def _check_rule(found: Another, limits: Limits, wanted: MergeFit) -> None:
    """One of this policy's rules about records, on the other run's; other rules are left to the gate."""
    by_method = isinstance(limits, training_method.Limits)
    if not (by_method or isinstance(limits, flagged_samples.Limits)) or (by_method and wanted.baseline):
        return
    policy = wanted.exam.policy.policy
    evidence = Evidence(data=found.report, adapter=found.record, detectors=policy.data.detectors)
    finding = load_rule(limits.rule).check(evidence, limits)
    if finding.verdict is not Verdict.PASSED:
        other = "or add --baseline to measure it anyway (it cannot be promoted)"
        raise PolicyDenied(
            f"the adapter in {found.path} may not be merged in: {finding.sli}: {finding.reason}",
            expected=f"{finding.objective} ({limits.rule} of policy {policy.name!r})",
            next_step=f"leave it out, {other if by_method else 'or train it on data that the policy accepts'}",
        )


def _check_modules(found: Another, shapes: Mapping[str, tuple[int, int]]) -> None:
    updates = read_updates(found.adapter)
    has = {name: (update.b.shape[0], update.a.shape[1]) for name, update in updates.items()}
    if has != shapes:
        odd = min(has.items() ^ shapes.items())[0]
        raise InvalidInput(
            f"the adapter in {found.path} is for other modules or shapes than this run trains (the first: {odd})",
            expected=f"{len(shapes)} modules, of which it has {len(has.keys() & shapes.keys())}",
            next_step="train both with the same --lora-target",
        )
