"""Whether a well-formed policy can work here: every plug-in it names exists, and no promise is beyond its sample size.

Asked before anything is trained, because a promise that can never be shown to hold blocks only at the very end.
Plug-ins are listed, never imported; a family without members yet is not asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

from guardrail.errors import InvalidInput
from guardrail.plugins import names, suggestion
from guardrail.policy.document import Path as Place
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import load_rule
from guardrail.policy.schema import Policy
from guardrail.records import Sli

DETECTORS = "guardrail.data.detectors"
METHODS = "guardrail.train.methods"
SUITES = "guardrail.evaluate.suites"
ATTACKS = "guardrail.evaluate.attacks"
JUDGES = "guardrail.evaluate.judges"
SCORES = "guardrail.evaluate.tasks"
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
    found = [*_unknown(loaded), *_unprovable(loaded)]
    if found:
        raise InvalidInput("\n".join(found), expected="a policy that evidence can satisfy")


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
            everything = (*known, *mention.also)
            hint = suggestion(mention.name, everything) or "expected one of " + ", ".join(everything)
            family = mention.family.rpartition(".")[2]
            lines.append(f"{loaded.document.where(mention.place)}: {mention.name!r} is none of the {family}: {hint}")
    return lines


def _mentions(policy: Policy) -> list[_Mention]:
    found = [_Mention(("data", "detectors", i), DETECTORS, name) for i, name in enumerate(policy.data.detectors)]
    for name, suite in policy.suites.items():
        found.append(_Mention(("suites", name, "format"), SUITES, suite.format, ("testbed",)))
    for name, task in policy.tasks.items():
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
