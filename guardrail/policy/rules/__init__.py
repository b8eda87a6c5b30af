"""The interface of a rule: one promise of a policy, judged on the records.

A rule is one file of this package, named as in a policy (``rule: attack_success_rate``), with four things:

- ``Limits``: a frozen model of the keys that the policy may give it;
- ``needs(limits)``: what must be measured for it (the evaluation plan is derived from these);
- ``unprovable(limits)``: why no evidence of the promised size could ever satisfy it, or an empty string;
- ``check(evidence, limits)``: the finding. Pure; it recomputes every bound from counts.

Files whose names begin with an underscore are helpers. Not covered here: how findings add up (``policy/decide.py``).
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, cast

from pydantic import ConfigDict, Field

from guardrail import plugins
from guardrail.records import AdapterRecord, DataReport, EvaluationReport, Finding, Frozen, Sli

PACKAGE = "guardrail.policy.rules"


class Evidence(Frozen):
    """The three records that a decision is made from; None where a stage left none.

    ``detectors``, ``tasks`` and ``splits`` say what the policy declares, so that leaving a measurement out is noticed
    and a measurement on another split does not count; :func:`~guardrail.policy.decide.decide` fills them in.
    """

    data: DataReport | None = None
    adapter: AdapterRecord | None = None
    evaluation: EvaluationReport | None = None
    detectors: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    splits: dict[str, str] = Field(default_factory=dict)


class Need(Frozen):
    """One measurement that a rule asks for; an empty ``suite`` is every task, an empty ``judge`` is any."""

    sli: Sli
    suite: str
    attack: str
    judge: str

    def __str__(self) -> str:
        parts = [self.sli.value, f"on {self.suite}" if self.suite else "on every task"]
        parts += [f"under {self.attack}"] if self.attack else []
        parts += [f"judged by {self.judge}"] if self.judge else []
        return " ".join(parts)


class Limits(Frozen):
    """Base of every rule's limits; each adds its keys and pins ``rule`` to its own name."""

    model_config = ConfigDict(strict=True)

    rule: str


_Limits: TypeAlias = Limits  # inside the protocol the name is the attribute's


class Rule(Protocol):
    """What a module of this package provides."""

    Limits: type[_Limits]

    def needs(self, limits: _Limits) -> tuple[Need, ...]:
        """The measurements that ``check`` will read."""

    def unprovable(self, limits: _Limits) -> str:
        """Why these limits can never be shown to hold, with the n they need; empty if they can."""

    def check(self, evidence: Evidence, limits: _Limits) -> Finding:
        """Judge the evidence; a rule that raises counts as inconclusive."""


def load_rule(name: str) -> Rule:
    """The rule called ``name``.

    Raises:
        InvalidInput: there is no such rule; the message lists those there are.
    """
    return cast(Rule, plugins.load(PACKAGE, name))
