"""What whoever chooses may look at: the *validation* split, judged by the policy's own attack success limits.

Lambda of a merge, the method of ``--method auto`` and the step of early stopping are chosen by this score; the gate
suite is measured once, on what was chosen. Only the candidate is asked, never its base: nothing is compared with it.

Not covered: suites and tasks whose ``split`` is ``all``. The gate asks their validation prompts too, and then a choice
is made on what judges; early stopping refuses that (:func:`check_apart`), merges and auto do not. Suites that the
policy withholds are never chosen by, on no split, even where they can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail.errors import InvalidInput
from guardrail.evaluate.engines import Engine
from guardrail.evaluate.engines.transformers import TransformersEngine
from guardrail.evaluate.measure import Plan, measure_alone, plan_attack, plan_utility
from guardrail.model.adapter import load_adapter, strip_lora
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.leakage import check_validation
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import attack_success_rate
from guardrail.progress import Progress, Tick
from guardrail.train.methods import Score

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel


@dataclass(frozen=True)
class Plans:
    """What is asked on the validation split: one plan for each limit, and one for each task."""

    limits: tuple[attack_success_rate.Limits, ...]
    safety: tuple[Plan, ...]
    utility: tuple[Plan, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest of each suite and task."""
        return tuple(plan.suite_digest for plan in (*self.safety, *self.utility))

    @property
    def size(self) -> int:
        """How many prompts are asked."""
        return sum(len(plan.asked) for plan in (*self.safety, *self.utility))

    def score(self, engine: Engine, progress: Tick | None = None) -> Score:
        """Ask a candidate everything."""
        safety = [
            measure_alone(plan, engine, rule.confidence, progress)
            for plan, rule in zip(self.safety, self.limits, strict=True)
        ]
        utility = [measure_alone(plan, engine, progress=progress).value for plan in self.utility]
        return Score(
            admissible=all(rate.upper <= rule.max for rate, rule in zip(safety, self.limits, strict=True)),
            utility=sum(utility) / max(1, len(utility)),
            attack_success_rate=max(rate.value for rate in safety),
        )


@dataclass(frozen=True)
class Validation:
    """Scores candidates of one run: a saved adapter, or the model that is being trained."""

    exam: Exam
    base: BaseModel
    progress: Progress | None = None

    def __call__(self, directory: Path) -> Score:
        """The adapter in ``directory``; the base must be bare."""
        model = load_adapter(self.base, directory)
        try:
            return self.live(model)
        finally:
            strip_lora(self.base, model)

    def live(self, model: Any) -> Score:
        """A model that carries its adapter already; in evaluation mode."""
        generation, done = self.exam.policy.policy.generation, 0
        engine = TransformersEngine(self.base, model, generation.max_new_tokens, generation.batch_size)

        def count(new: int) -> None:
            nonlocal done
            done += new
            if self.progress:
                self.progress("validating", done, self._plans.size)

        return self._plans.score(engine, count)

    @cached_property
    def _plans(self) -> Plans:
        return plan_validation(self.exam)


def plan_validation(exam: Exam) -> Plans:
    """What is asked.

    Raises:
        InvalidInput: the policy has no attack success limit to choose by, or there is no validation split.
    """
    limits, system = chosen_by(exam.policy), exam.policy.policy.generation.system or ""
    suites = [exam.suite(rule.suite, "validation") for rule in limits]
    return Plans(
        limits,
        tuple(plan_attack(suite, rule.attack, rule.judge, system) for suite, rule in zip(suites, limits, strict=True)),
        tuple(plan_utility(exam.task(task, "validation"), system) for task in exam.task_names),
    )


def chosen_by(policy: LoadedPolicy) -> tuple[attack_success_rate.Limits, ...]:
    """The limits that a choice is made by: those on attack success on suites that are not withheld.

    Raises:
        InvalidInput: there are none.
    """
    limits = (rule for rule in policy.policy.rules if isinstance(rule, attack_success_rate.Limits))
    found = tuple(rule for rule in limits if not policy.policy.suites[rule.suite].withheld)
    if not found:
        raise InvalidInput(
            f"{policy.source} has no attack_success_rate rule to choose by",
            expected="a rule on a suite that is not withheld: what is withheld judges, and is never chosen by",
            next_step="train with a method that chooses nothing, or add such a suite and rule",
        )
    return found


def check_apart(exam: Exam) -> None:
    """Refuse to choose on prompts that the gate asks, and to choose by nothing but safety.

    Raises:
        InvalidInput: see above, and as :func:`plan_validation`.
    """
    plans = plan_validation(exam)
    if not exam.task_names:
        raise InvalidInput(
            "--validate-steps: no task is named, so that an adapter that learned nothing would rank as high as any",
            next_step="give --task NAME, or declare tasks in the policy",
        )
    suites = [exam.suite(rule.suite, "validation") for rule in plans.limits]
    prompts = [text for suite in suites for behaviour in suite.behaviours for text in behaviour.variants]
    examples = [exam.task(task, "validation").examples for task in exam.task_names]
    check_validation(exam, [*prompts, *(example.prompt for some in examples for example in some)])
