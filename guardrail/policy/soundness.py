"""Whether a well-formed policy can work here: every name in it exists, and no promise is beyond what can be shown.

Asked before anything is trained, because a promise that can never be shown to hold blocks only at the very end.
Plug-ins are listed, never imported; a family without members yet is not asked about. Not covered: whether the files
that the policy names are there and can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from guardrail.document_mistakes import hint
from guardrail.errors import InvalidInput
from guardrail.names import not_plain
from guardrail.plugins import names
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import flagged_samples, load_rule
from guardrail.policy.schema import Policy, SuitePlan, TaskPlan
from guardrail.records import Sli
from guardrail.yaml_document import Path as Place

DETECTORS = "guardrail.data.detectors"
METHODS = "guardrail.train.methods"
SUITES = "guardrail.evaluate.suites"
ATTACKS = "guardrail.evaluate.attacks"
JUDGES = "guardrail.evaluate.judges"
SCORES = "guardrail.evaluate.tasks"
TESTBED = "testbed"
FILE_SPLITS = ("all", "gate", "validation")
TESTBED_SPLITS = MappingProxyType(
    {
        "harmful": ("gate", "replay", "poison", "validation", "aligned", "never_aligned"),
        "benign": ("gate", "replay", "validation", "aligned", "never_aligned"),
        "task": ("train", "validation", "gate"),
    }
)
"""Written down here because a policy is checked without the packages that read files and make the testbed; a test
compares them."""

JUDGED = (Sli.ATTACK_SUCCESS_RATE, Sli.OVER_REFUSAL_RATE)  # the others are scored by fixed rules


@dataclass(frozen=True)
class _Mention:
    """A plug-in's name at a place of the policy; ``also`` are names that need no plug-in."""

    place: Place
    family: str
    name: str
    also: tuple[str, ...] = ()


def require_sound(loaded: LoadedPolicy) -> None:
    """Refuse a policy that names what does not exist or promises what cannot be shown.

    Raises:
        InvalidInput: each line of the message names file:line:column, and the n that a promise needs.
    """
    found = [
        *_mistakable(loaded),
        *_unknown(loaded),
        *_unreadable(loaded),
        *_unwithholdable(loaded),
        *_unflaggable(loaded),
        *_unprovable(loaded),
    ]
    if found:
        raise InvalidInput("\n".join(found), expected="a policy that evidence can satisfy")


def _mistakable(loaded: LoadedPolicy) -> list[str]:
    """A model that readers take for another one: no trust file guards such a name."""
    why = not_plain(loaded.policy.target.model)
    return [f"{loaded.document.where(('target', 'model'))}: the model's name {why}"] if why else []


def _unprovable(loaded: LoadedPolicy) -> list[str]:
    reasons = []
    for index, limits in enumerate(loaded.policy.rules):
        reason = load_rule(limits.rule).unprovable(limits)
        if reason:
            place: Place = ("rules", index, "min_n") if hasattr(limits, "min_n") else ("rules", index)
            reasons.append(f"{loaded.document.where(place)}: {limits.rule}: {reason}")
    return reasons


def _unknown(loaded: LoadedPolicy) -> list[str]:
    lines = []
    for mention in _mentions(loaded.policy):
        known = names(mention.family)
        if known and mention.name not in (*known, *mention.also):
            meant = hint(mention.name, (*known, *mention.also))
            family = mention.family.rpartition(".")[2]
            lines.append(f"{loaded.document.where(mention.place)}: {mention.name!r} is none of the {family}: {meant}")
    return lines


def _unreadable(loaded: LoadedPolicy) -> Iterator[str]:
    """Suites and tasks without the file they need, or with a split that they do not have."""
    for section, plans in (("suites", loaded.policy.suites), ("tasks", loaded.policy.tasks)):
        for name, plan in plans.items():
            place: Place = (section, name)
            if plan.format != TESTBED and plan.path is None and not (isinstance(plan, SuitePlan) and plan.withheld):
                where = loaded.document.where(place)
                yield f"{where}: {section}.{name}.path is missing: only the {TESTBED} needs no file"
            wrong = _wrong_split(plan)
            if wrong:
                yield f"{loaded.document.where((*place, 'split'))}: {wrong}"


def _unwithholdable(loaded: LoadedPolicy) -> Iterator[str]:
    """Suites that are said to be withheld, though everybody has them or nobody could tell them from others."""
    for name, plan in loaded.policy.suites.items():
        where = loaded.document.where(("suites", name, "withheld"))
        if plan.withheld and plan.format == TESTBED:
            yield f"{where}: suites.{name} cannot be withheld: everybody has the {TESTBED}; give it a file"
        elif plan.withheld and plan.sha256 is None:
            yield f"{where}: suites.{name}.sha256 is missing: whoever trains cannot look at what a withheld suite holds"


def _wrong_split(plan: SuitePlan | TaskPlan) -> str:
    kind = plan.kind if isinstance(plan, SuitePlan) else "task"
    known = TESTBED_SPLITS[kind] if plan.format == TESTBED else FILE_SPLITS
    whose = f"the {TESTBED} has no {kind}" if plan.format == TESTBED else "a file has no"
    return "" if plan.split in known else f"{whose} split {plan.split!r}: {hint(plan.split, known)}"


def _unflaggable(loaded: LoadedPolicy) -> Iterator[str]:
    """Promises about flags that nobody would raise: they would hold of any data, or never."""
    runs = loaded.policy.data.detectors
    for index, limits in enumerate(loaded.policy.rules):
        if isinstance(limits, flagged_samples.Limits):
            idle = [name for name in limits.detectors if name not in runs]
            place: Place = ("rules", index, "detectors") if idle else ("data", "detectors")
            where = f"{loaded.document.where(place)}: {limits.rule}"
            if idle:
                yield f"{where}: {', '.join(idle)} is not among data.detectors: it never runs"
            elif not runs:
                yield f"{where}: data.detectors is empty, so nothing can ever be flagged"


def _mentions(policy: Policy) -> list[_Mention]:
    found = [_Mention(("data", "detectors", i), DETECTORS, name) for i, name in enumerate(policy.data.detectors)]
    for name, suite in policy.suites.items():
        found.append(_Mention(("suites", name, "format"), SUITES, suite.format, (TESTBED,)))
    for name, task in policy.tasks.items():
        found.append(_Mention(("tasks", name, "format"), SCORES, task.format, (TESTBED,)))
        if task.score is not None:
            found.append(_Mention(("tasks", name, "score"), SCORES, task.score))
    for index in range(len(policy.rules)):
        found += _mentions_of_rule(policy, index)
    return found


def _mentions_of_rule(policy: Policy, index: int) -> list[_Mention]:
    """Attacks and judges through the rule's needs, methods and detectors by the keys' names."""
    limits, place = policy.rules[index], ("rules", index)
    found = []
    for need in load_rule(limits.rule).needs(limits):
        found += [_Mention((*place, "attack"), ATTACKS, need.attack)] if need.attack else []
        found += [_Mention((*place, "judge"), JUDGES, need.judge)] if need.sli in JUDGED else []
    for key, family in (("allowed", METHODS), ("detectors", DETECTORS)):
        values: tuple[str, ...] = getattr(limits, key, ())
        found += [_Mention((*place, key, i), family, value) for i, value in enumerate(values)]
    return found
