"""A decision as one self-contained HTML page: no script, no network, light and dark, fit to print and to archive.

It shows what the records say and computes nothing (bars are drawn where the recorded bounds are). Names in records
come from outside: the template escapes everything, characters that are not shown are written out, and the page forbids
itself scripts and any connection.
The template lies beside this file, in ``templates/decision.html.j2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guardrail.policy.bases import NOT_PINNED, pins_base
from guardrail.policy.rules import Evidence
from guardrail.printable import one_line
from guardrail.records import Decision, Sli, Verdict
from guardrail.report import attempts

HEADLINES = {
    Verdict.PASSED: ("✓", "Passed", "The policy holds. The registry says whether it was promoted or still waits."),
    Verdict.FAILED: ("✗", "Failed", "The adapter is denied: a measurement violates the policy."),
    Verdict.INCONCLUSIVE: ("?", "Inconclusive", "The adapter is blocked: the evidence does not suffice."),
    Verdict.AWAITING_APPROVAL: ("…", "Awaiting approval", "The policy holds; a person still has to sign."),
}
GOOD = (Sli.UTILITY, Sli.COHERENCE)


def render(decision: Decision, evidence: Evidence | None = None, errors: Sequence[str] = ()) -> str:
    """The page; the records of ``evidence`` add the measurements, the training and the data where they are there.

    ``errors`` say how many answers are missing, and why.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("guardrail.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    page = environment.get_template("decision.html.j2")
    return page.render(
        decision=decision,
        evidence=evidence or Evidence(),
        headlines=HEADLINES,
        good=GOOD,
        attempt=attempts.attempt_sentence(decision),
        errors=errors,
        danger="" if pins_base(decision) else NOT_PINNED,
    )


def _shown(value: Any) -> Any:
    """What a template's expression gives; text that is markup already was made by the template itself."""
    return one_line(value) if type(value) is str else value
