"""Which base models a policy lets an adapter be made for; an adapter's safety says nothing on another base.

Whoever trains names the base, so the policy pins it: the name that it is loaded by, the commit where one is given, and
the digest of its weights, configuration, tokenizer and chat template. A whole chain of evidence on another base
violates the policy (FAILED); it is not invalid. A policy without ``bases`` promises nothing about the base: there is
no finding then, and every rendering of the decision says so.
Not covered: computing a digest (``model/files.py``), and the digests that a trust file pins
(``registry/verify/trust_requirements.py``).
"""

from __future__ import annotations

import json

from guardrail.errors import InvalidInput
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.rules import Evidence
from guardrail.policy.schema import Policy
from guardrail.printable import joined
from guardrail.records import AdapterRecord, Decision, EvaluationReport, Finding, ModelRef, Verdict

RULE = "base model"
"""What the finding is called; no rule of a plug-in can be called so, because no module can."""
NOT_PINNED = "THE BASE MODEL IS NOT PINNED: the policy leaves it to whoever trained the adapter."


def base_findings(policy: Policy, evidence: Evidence) -> tuple[Finding, ...]:
    """The finding on the base: PASSED if the policy pins it, FAILED if it pins others; none where it pins nothing."""
    if not policy.bases:
        return ()
    used = dict.fromkeys(described(record.base) for record in _records(evidence))
    pinned = all(is_pinned(policy, record.base) for record in _records(evidence))
    verdict = (Verdict.PASSED if pinned else Verdict.FAILED) if used else Verdict.INCONCLUSIVE
    reason = f"trained and evaluated on {', '.join(used)}" if used else "there is no record of a base"
    return (Finding(rule=RULE, sli=RULE, objective=pins_described(policy), verdict=verdict, reason=reason),)


def _records(evidence: Evidence) -> list[AdapterRecord | EvaluationReport]:
    return [record for record in (evidence.adapter, evidence.evaluation) if record is not None]


def is_pinned(policy: Policy, base: ModelRef) -> bool:
    """Whether ``base`` is one of the policy's, by digest, by name, and by commit where the policy gives one."""
    return any(
        (pin.sha256, pin.name) == (base.digest, base.name) and pin.revision in (None, base.revision)
        for pin in policy.bases
    )


def pins_base(decision: Decision) -> bool:
    """Whether the policy that was decided under pins the base."""
    return any(finding.rule == RULE for finding in decision.findings)


def require_pinned_base(policy: LoadedPolicy, base: ModelRef) -> None:
    """Refuse to work for hours on a base whose adapters the policy will not let pass; a policy may pin none.

    Raises:
        InvalidInput: the policy pins others; the message holds what would have to be pinned.
    """
    if policy.policy.bases and not is_pinned(policy.policy, base):
        raise InvalidInput(
            f"policy {policy.policy.name!r} does not allow the base {described(base)}",
            expected=pins_described(policy.policy),
            next_step=joined(
                [
                    "use a pinned base, or after review pin this one (`guardrail policy base` shows its parts):",
                    *block(base.name, base.revision, base.digest).split("\n"),
                ]
            ),
        )


def block(name: str, revision: str | None, sha256: str) -> str:
    """The section of a policy that pins this base; texts are quoted as JSON, which YAML reads as it is."""
    commit = f", revision: {json.dumps(revision)}" if revision else ""
    return f'bases:\n  - {{name: {json.dumps(name)}{commit}, sha256: "{sha256}"}}'


def described(base: ModelRef) -> str:
    """``testbed (sha256 5f3a…)``, with the commit where there is one."""
    return _described(base.name, base.revision, base.digest)


def pins_described(policy: Policy) -> str:
    """Every base that the policy pins, in its order."""
    return "one of " + "; ".join(_described(pin.name, pin.revision, pin.sha256) for pin in policy.bases)


def _described(name: str, revision: str | None, sha256: str) -> str:
    return f"{name} at {revision} (sha256 {sha256})" if revision else f"{name} (sha256 {sha256})"
