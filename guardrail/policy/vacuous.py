"""Promises of a policy that hold of any adapter, or nearly: each with its place and why it protects nobody.

A policy can be well-formed, provable and worthless. These are warnings, because a dry run may want such a policy;
whoever must not be asked to trust one states the least in the trust file (``policy/promised.py``), which refuses.
The bounds here are ours: a limit above one half, a confidence below 0.9, evidence for more than a year, fewer than 50
items are more likely mistakes or tricks than intentions.
Not covered: promises that no sample can show (``soundness.py``), and whether suites and judges are any good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from guardrail.policy.load import LoadedPolicy
from guardrail.policy.promised import JUDGING_SPLITS
from guardrail.policy.rules import Limits, attack_success_rate, flagged_samples, training_method
from guardrail.policy.schema import Policy
from guardrail.yaml_document import Path as Place

HALF, LEAST_CONFIDENCE, LEAST_N, MOST_DAYS, MOST_LEFT_IN = 0.5, 0.9, 50, 365, 100
UNPROTECTED = "finetune"
TESTBED = "testbed"
EXPECTED_RULES = {
    "attack_success_rate": "an adapter that answers every harmful request passes",
    "over_refusal_rate": "an adapter that refuses everything passes",
    "utility": "an adapter that has learned nothing, or forgotten everything, passes",
    "coherence": "an adapter that babbles passes: babble is no harm to a judge",
    "flagged_samples": "poison that was found may be trained on",
    "training_method": "any method may have made the adapter, plain fine-tuning too",
}


@dataclass(frozen=True)
class Warned:
    """A place of the policy (``where`` is file:line:column), a searchable ``code``, and why it promises nothing."""

    where: str
    code: str
    text: str


@dataclass(frozen=True)
class _Found:
    place: Place
    code: str
    text: str


def warnings(loaded: LoadedPolicy) -> tuple[Warned, ...]:
    """Everything about the policy that promises nothing, section by section; empty for one that means it."""
    policy = loaded.policy
    found = (*_base(policy), *_data(policy), *_contents(policy), *_rules(policy), *_missing(policy))
    return tuple(Warned(loaded.document.where(one.place), one.code, one.text) for one in found)


def _base(policy: Policy) -> Iterator[_Found]:
    if not policy.bases:
        yield _Found(
            (),
            "base-not-pinned",
            "no 'bases': whoever trains chooses the base model, and a gated server "
            "refuses that unless the trust file pins one (see guardrail policy base)",
        )
    days = policy.evidence.valid_days
    if days > MOST_DAYS:
        yield _Found(
            ("evidence", "valid_days"),
            "long-validity",
            f"evidence is relied upon for {days} days: attacks improve even if the adapter does not change",
        )


def _data(policy: Policy) -> Iterator[_Found]:
    data = policy.data
    if not data.detectors:
        yield _Found(("data", "detectors"), "no-detector", "no detector looks at the training data")
    if not data.quarantine:
        yield _Found(("data", "quarantine"), "no-quarantine", "rows that a detector flags stay in the training data")
    elif data.max_flagged_share >= 1.0:
        text = "data of which everything is flagged is still trained on, as far as detectors missed some"
        yield _Found(("data", "max_flagged_share"), "any-share-flagged", text)


def _contents(policy: Policy) -> Iterator[_Found]:
    for section, plans in (("suites", policy.suites), ("tasks", policy.tasks)):
        for name, plan in plans.items():
            if plan.split not in JUDGING_SPLITS:
                text = f"{section}.{name} judges on the split {plan.split!r}, by which things are chosen or trained"
                yield _Found((section, name, "split"), "split-not-for-judging", text)
            if plan.format != TESTBED and plan.sha256 is None:
                text = f"{section}.{name} is not pinned: whoever edits the file changes what is asked"
                yield _Found((section, name), "contents-not-pinned", text)


def _rules(policy: Policy) -> Iterator[_Found]:
    for index, limits in enumerate(policy.rules):
        place: Place = ("rules", index)
        for key, code, text in (*_limits(limits), *_samples(limits), *_methods(policy, limits)):
            yield _Found((*place, key), code, f"{limits.rule}: {text}")


def _limits(limits: Limits) -> Iterator[tuple[str, str, str]]:
    """Limits that any adapter keeps, and those that let through what nobody would call safe or useful."""
    for key in ("max", "max_increase", "max_drop"):
        value = getattr(limits, key, None)
        if value is not None and value >= 1.0 and not _other(limits, key):
            yield key, "any-adapter-passes", f"{key} {value:g} holds of any adapter"
        elif value is not None and HALF < value < 1.0:
            yield key, "loose-limit", f"{key} {value:g} lets more than half of the items go wrong"
    value = getattr(limits, "min", None)
    if value is not None and value <= 0.0 and not _other(limits, "min"):
        yield "min", "any-adapter-passes", f"min {value:g} holds of any adapter"


def _other(limits: Limits, key: str) -> bool:
    """Whether another key of the same rule promises something, so that this one merely adds nothing."""
    worst = {"max": 1.0, "max_increase": 1.0, "max_drop": 1.0}
    given = {k: getattr(limits, k, None) for k in (*worst, "min") if k != key}
    return any(v is not None and (v > 0.0 if k == "min" else v < worst[k]) for k, v in given.items())


def _samples(limits: Limits) -> Iterator[tuple[str, str, str]]:
    confidence, n = getattr(limits, "confidence", None), getattr(limits, "min_n", None)
    if confidence is not None and confidence < LEAST_CONFIDENCE:
        text = f"at confidence {confidence:g} a bad adapter passes in up to {1 - confidence:.0%} of tries"
        yield "confidence", "low-confidence", text
    if n is not None and n < LEAST_N:
        yield "min_n", "few-items", f"{n} items are accepted as evidence"


def _methods(policy: Policy, limits: Limits) -> Iterator[tuple[str, str, str]]:
    if isinstance(limits, flagged_samples.Limits) and limits.max_left_in > MOST_LEFT_IN:
        text = f"{limits.max_left_in} flagged rows may be trained on; some hundred poison a model of any size"
        yield "max_left_in", "poison-left-in", text
    if isinstance(limits, training_method.Limits) and UNPROTECTED in limits.allowed and not _judges_attacks(policy):
        text = f"{UNPROTECTED!r} protects nothing, and no rule limits the attack success rate"
        yield "allowed", "unprotected-method", text


def _judges_attacks(policy: Policy) -> bool:
    return any(isinstance(one, attack_success_rate.Limits) and one.max <= HALF for one in policy.rules)


def _missing(policy: Policy) -> Iterator[_Found]:
    present = {limits.rule for limits in policy.rules}
    for rule, why in EXPECTED_RULES.items():
        if rule not in present:
            yield _Found(("rules",), f"no-{rule.replace('_', '-')}", f"no rule {rule}: {why}")
