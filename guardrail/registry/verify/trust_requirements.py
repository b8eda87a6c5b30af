"""Whether evidence rests on a base that is pinned and a policy that promises what the trust file asks.

The gated server asks before it admits anything, and whoever verifies or approves under a trust file asks the same
again: a base that was taken out of the trust file, or a policy that promises less than a newer one asks, is refused
from then on. Not covered: readers without a trust file, who see what the policy alone pins (``verify.py``).
"""

from __future__ import annotations

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import GuardedModel, Trust
from guardrail.policy.bases import described
from guardrail.policy.promised import asked_of, base_is_pinned
from guardrail.records import ModelRef
from guardrail.registry.verify.evidence_checks import Examined


def require_promised(examined: Examined, trust: Trust, guarded: GuardedModel) -> None:
    """The base is pinned and this one, and the policy promises at least what the trust file asks.

    What the policy itself pins, the decision found when it was made again (``policy/bases.py``).

    Raises:
        EvidenceInvalid: it is not so; every shortfall is named.
    """
    require_base(examined.decision.base, guarded)
    missing = asked_of(trust, guarded, examined.policy)
    if missing:
        raise EvidenceInvalid(
            f"policy {examined.policy.name!r} promises less than version {trust.version} of the trust file asks: "
            + "; ".join(missing),
            expected="a policy that promises at least that",
            next_step="change the policy, have the root keys pin it, and measure under it "
            "(guardrail trust check FILE --policy POLICY tells beforehand)",
        )


def require_base(base: ModelRef, guarded: GuardedModel) -> None:
    """The trust file allows the base for the model, or names none.

    Raises:
        EvidenceInvalid: it names others.
    """
    if not base_is_pinned(guarded, base):
        raise EvidenceInvalid(
            f"the adapter was made for the base {described(base)}",
            expected=f"one that the trust file pins for {guarded.name}: {', '.join(guarded.bases)}",
            next_step="train it on a pinned base, or have the root keys pin this one",
        )
