"""What is refused before anything is trained: method, hyperparameters, replay, suites, tasks, adapters to be merged in.

Whoever only checks and whoever trains go the same way (:func:`prepare`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail.errors import InvalidInput, PolicyDenied
from guardrail.pipeline.auto_method import AUTO, allowed
from guardrail.pipeline.base import base_model
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.gate_plans import plan_all
from guardrail.pipeline.exam.leakage import check_anchors, check_replay
from guardrail.pipeline.exam.sizes import require_enough
from guardrail.pipeline.exam.validation import check_apart, chosen_by
from guardrail.pipeline.live_training import require_reachable
from guardrail.pipeline.merge.merge_inputs import MergeFit, check_left_in, read_others
from guardrail.pipeline.prompts import anchors, replay_prompts
from guardrail.pipeline.request import TrainRequest
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import training_method
from guardrail.records import DataReport
from guardrail.train import processes
from guardrail.train.early_stopping import check as check_early_stopping
from guardrail.train.methods import create
from guardrail.train.replay import require_prompts
from guardrail.train.stage import Given

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel


@dataclass(frozen=True)
class Prepared:
    """What a training starts from besides its rows: the prompts to replay, and adapters to be merged in."""

    prompts: tuple[str, ...]
    others: tuple[Given, ...]


def prepare(
    exam: Exam,
    request: TrainRequest,
    base: BaseModel | None = None,
    report: DataReport | None = None,
    own: Path | None = None,
) -> Prepared:
    """Check everything that a training needs besides its rows; the base is loaded only where adapters are merged in.

    Args:
        exam: what the run is examined by.
        request: what is asked for.
        base: the base, where it is loaded already.
        report: what the data stage found, where it ran.
        own: this run's directory, which cannot be merged with itself.

    Raises:
        PolicyDenied: the policy forbids the method, or the flagged rows that merged adapters were trained on.
        InvalidInput: the method or its replay prompts are not there, the gate asks what is replayed or validated on, or
            another run's adapter cannot be merged in.
        EvidenceInvalid: another run's records and files do not belong together.
    """
    check_method(exam.policy, request)
    check_validated(exam, request)
    prompts = replay_prompts(request.replay, exam.config.base)
    if request.replays:
        if request.method != AUTO:
            require_prompts(prompts)
        check_replay(exam, prompts)
    others: tuple[Given, ...] = ()
    if request.adapters:
        base = base or base_model(exam.config.base, exam.config.revision)
        others = read_others(request.adapters, MergeFit(exam, base, request.lora.targets, request.baseline, own))
        check_left_in(exam.policy, others, report)
    return Prepared(prompts, others)


def check_request(exam: Exam, request: TrainRequest) -> None:
    """Refuse now what every later stage would refuse: method, hyperparameters, replay, suites and tasks, and how many
    items they have.

    For one who runs all stages: suites that the policy withholds are asked for, too. Training alone does
    without them.

    Raises:
        PolicyDenied: the policy forbids the method.
        InvalidInput: the method, its replay prompts, a suite or a task are not there, no task is named, the gate asks
            what is replayed or validated on, or another run's adapter cannot be merged in.
        EvidenceInvalid: another run's records and files do not belong together.
        ServiceUnavailable: the server that is to show the training does not answer.
    """
    require_enough(exam)
    check_anchors(exam, anchors(exam.policy))
    prepare(exam, request)
    require_reachable(request.live_uri)
    list(plan_all(exam))


def check_method(policy: LoadedPolicy, request: TrainRequest) -> None:
    """Refuse to spend hours on an adapter that can never be promoted."""
    if request.method == AUTO:
        _check_auto(policy, request)
        return
    create(request.method, request.hyperparameters, len(request.adapters))
    if request.baseline:
        return
    for limits in policy.policy.rules:
        if isinstance(limits, training_method.Limits) and request.method not in limits.allowed:
            raise PolicyDenied(
                f"policy {policy.policy.name!r} does not allow training with {request.method!r}",
                expected="one of " + ", ".join(limits.allowed),
                next_step="choose one of these, or add --baseline to measure it anyway (it cannot be promoted)",
            )


def check_validated(exam: Exam, request: TrainRequest) -> None:
    """Refuse choosing by safety alone, and early stopping that cannot choose or that would choose on what judges.

    Raises:
        InvalidInput: with the reason.
    """
    if request.chooses:
        chosen_by(exam.policy)
    if request.chooses and not exam.task_names:
        raise InvalidInput(
            f"--method {request.method} chooses by utility, and no task is named: what learned nothing would do too",
            next_step="give --task NAME to the run's first command, or declare tasks in the policy",
        )
    if not request.settings.validate_steps:
        return
    if request.method != AUTO:
        check_early_stopping(request.settings, create(request.method, request.hyperparameters))
    check_apart(exam)


def _check_auto(policy: LoadedPolicy, request: TrainRequest) -> None:
    allowed(policy, replays=True)
    if request.hyperparameters or request.adapters or processes.count() > 1:
        raise InvalidInput(
            "--method auto tries methods with their defaults, in one process",
            expected="no --set, no --adapter, and no accelerate launch",
            next_step="choose with auto first, then train with the method that it chose",
        )
