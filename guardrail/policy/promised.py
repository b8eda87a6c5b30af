"""What a trust file asks of a policy before anything is admitted under it: a pinned base, and certain promises.

The trust file pins policies by digest, and a digest says nothing about what the policy promises: one that lets every
adapter pass has a digest, too. So whoever admits compares the policy's text with the trust file's ``least``, and
refuses a policy that leaves the base to whoever trained. Pure; asked of the same text by whoever signs a trust file,
by the gated server and by whoever verifies.
Not covered: how well a judge judges, and what is in suites that ``least`` does not name by digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guardrail.evidence.trust.trust_file import GuardedModel, Least, LeastRate, LeastUtility, Trust
from guardrail.policy.rules import Limits, attack_success_rate, over_refusal_rate, utility
from guardrail.policy.schema import Policy
from guardrail.records import ModelRef

JUDGING_SPLITS = ("gate", "all")
"""Splits by which nothing is chosen and on which nothing is trained."""


def shortfalls(policy: Policy, bases: Sequence[str], least: Sequence[Least]) -> tuple[str, ...]:
    """What a policy lacks of what a trust file asks, a sentence each; empty if it lacks nothing.

    Args:
        policy: what was pinned.
        bases: the digests of bases that the trust file pins for the model.
        least: what the trust file asks of the model's policies.
    """
    found = [] if policy.bases or bases else ["neither it nor the trust file pins a base model"]
    return (*found, *(text for one in least for text in _below(policy, one)))


def asked_of(trust: Trust, guarded: GuardedModel, policy: Policy) -> tuple[str, ...]:
    """The same for a guarded model of a trust file."""
    return shortfalls(policy, guarded.bases, trust.leasts(guarded))


def base_is_pinned(guarded: GuardedModel, base: ModelRef) -> bool:
    """Whether the trust file allows the base for the model; one that names none leaves it to the policy."""
    return not guarded.bases or base.digest in guarded.bases


def _below(policy: Policy, least: Least) -> Iterator[str]:
    if least.confidence is not None:
        yield from _doubtful(policy, least.confidence)
    if least.max_valid_days is not None and not policy.evidence.valid_days <= least.max_valid_days:
        yield f"evidence is valid for {policy.evidence.valid_days} days, at most {least.max_valid_days} are allowed"
    if least.attack_success_rate is not None:
        yield from _unlimited(policy, attack_success_rate.Limits, least.attack_success_rate)
    if least.over_refusal_rate is not None:
        yield from _unlimited(policy, over_refusal_rate.Limits, least.over_refusal_rate)
    if least.utility is not None and not any(_keeps(policy, limits, least.utility) for limits in policy.rules):
        yield f"no rule utility limits max_drop to {least.utility.max_drop:g} or less{_on(least.utility.min_n)}"
    if least.withheld_suite and not _withheld(policy, least.attack_success_rate or LeastRate(max=1.0)):
        yield "no attack_success_rate rule as strict as is asked judges a withheld suite"


def _doubtful(policy: Policy, confidence: float) -> Iterator[str]:
    for index, limits in enumerate(policy.rules):
        given = getattr(limits, "confidence", None)
        if given is not None and not given >= confidence:
            yield f"rules.{index} ({limits.rule}) is judged at confidence {given:g}, at least {confidence:g} is asked"


def _unlimited(policy: Policy, kind: type[Limits], least: LeastRate) -> Iterator[str]:
    judged = _judged(policy, kind, least)
    pins = {plan.sha256 for name, plan in policy.suites.items() if name in judged}
    wanted = f"to {least.max:g} or less{_on(least.min_n)}"
    rule = kind.__module__.rpartition(".")[2]
    if not judged:
        yield f"no rule {rule} limits it {wanted}, asked directly, on the split {' or '.join(JUDGING_SPLITS)}"
    yield from (
        f"no rule {rule} limits it {wanted} on the suite {suite}"
        for suite in least.suites
        if judged and suite not in pins
    )


def _judged(policy: Policy, kind: type[Limits], least: LeastRate) -> frozenset[str]:
    """Suites on which a rule of this kind limits the rate as is asked: asked directly, on a split that judges."""
    return frozenset(
        limits.suite
        for limits in policy.rules
        if isinstance(limits, attack_success_rate.Limits | over_refusal_rate.Limits)
        and isinstance(limits, kind)
        and limits.max <= least.max
        and limits.min_n >= least.min_n
        and getattr(limits, "attack", "direct") == "direct"
        and policy.suites[limits.suite].split in JUDGING_SPLITS
    )


def _withheld(policy: Policy, least: LeastRate) -> bool:
    return any(policy.suites[name].withheld for name in _judged(policy, attack_success_rate.Limits, least))


def _keeps(policy: Policy, limits: Limits, least: LeastUtility) -> bool:
    if not isinstance(limits, utility.Limits) or limits.max_drop is None:
        return False
    plans = [plan for name, plan in policy.tasks.items() if limits.task in ("", name)]
    judging = all(plan.split in JUDGING_SPLITS for plan in plans)
    return judging and limits.max_drop <= least.max_drop and limits.min_n >= least.min_n


def _on(min_n: int) -> str:
    return f" on {min_n} items or more" if min_n > 1 else ""
