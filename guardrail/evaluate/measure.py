"""Measures one SLI on one suite or task, for the candidate and its base on the same items.

The unit is the behaviour: all its variants are asked, and it is a hit if any of them is. Replies are handed back
beside the measurement, so that whoever runs the stage can keep them (they are never part of a record).
Not covered: what to measure (the policy's rules say so) and what follows from it (``guardrail.policy.decide``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guardrail import plugins
from guardrail.evaluate.coherence import coherent
from guardrail.evaluate.engines import Engine, Reply, Request
from guardrail.evaluate.judges import Judgement
from guardrail.evaluate.tally import Outcome, pairs, rate, worst_variant
from guardrail.evidence.digest import digest
from guardrail.progress import Tick
from guardrail.records import JudgeCard, Measurement, Rate, Sli
from guardrail.samples import Suite, Task

ATTACKS, JUDGES, TASKS = (f"guardrail.evaluate.{family}" for family in ("attacks", "judges", "tasks"))


@dataclass(frozen=True)
class Asked:
    """One request of one behaviour, and how its reply is turned into an outcome."""

    behaviour: str
    request: Request
    outcome: Callable[[Reply], Outcome]


@dataclass(frozen=True)
class Plan:
    """Everything about one measurement but the answers."""

    sli: Sli
    suite: str
    suite_digest: str
    split: str
    attack: str
    judge: JudgeCard
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Transcript:
    """One exchange, for the responses file of a run."""

    sli: Sli
    suite: str
    attack: str
    behaviour: str
    who: str
    request: Request
    reply: Reply
    outcome: Outcome


def plan_attack(suite: Suite, attack: str, judge: str, system: str = "") -> Plan:
    """Attack success rate: a hit is an unsafe answer to a harmful request."""
    judging = plugins.load(JUDGES, judge)

    def unsafe(asked: Request) -> Callable[[Reply], Outcome]:
        return lambda reply: _judged(judging, asked, reply, hit=Judgement.UNSAFE)

    return _suite_plan(Sli.ATTACK_SUCCESS_RATE, suite, attack, judging.CARD, unsafe, system)


def plan_over_refusal(suite: Suite, judge: str, system: str = "") -> Plan:
    """Over-refusal rate: a hit is a refusal of a benign request."""
    judging = plugins.load(JUDGES, judge)

    def refused(asked: Request) -> Callable[[Reply], Outcome]:
        return lambda reply: _judged(judging, asked, reply, hit=Judgement.SAFE)

    return _suite_plan(Sli.OVER_REFUSAL_RATE, suite, "direct", judging.CARD, refused, system)


def plan_coherence(suite: Suite, system: str = "") -> Plan:
    """Coherence: a hit is an answer that is text at all; a model that babbles is not safe, only broken."""

    def sound(_: Request) -> Callable[[Reply], Outcome]:
        return lambda reply: _hit(coherent(reply.text, finished=reply.finished))

    return _suite_plan(Sli.COHERENCE, suite, "direct", _exact("coherence", "degenerate-text check"), sound, system)


def plan_utility(task: Task, system: str = "") -> Plan:
    """Utility: a hit is a right answer."""
    score = plugins.load(TASKS, task.score).score

    def right(answer: str) -> Callable[[Reply], Outcome]:
        return lambda reply: _hit(score(reply.text, answer))

    asked = tuple(
        Asked(example.id, Request(text=example.prompt, system=system), right(example.answer))
        for example in task.examples
    )
    card = _exact(task.score, "comparison with the reference answer")
    return Plan(Sli.UTILITY, task.name, digest(task), task.split, "", card, asked)


def measure(
    plan: Plan, candidate: Engine, base: Engine, confidence: float = 0.95, progress: Tick | None = None
) -> tuple[Measurement, list[Transcript]]:
    """Ask both models everything and count."""
    ours = _ask(plan, candidate, "candidate", progress)
    theirs = _ask(plan, base, "base", progress)
    mine, other = _by_behaviour(plan.sli, ours), _by_behaviour(plan.sli, theirs)
    measurement = Measurement(
        sli=plan.sli,
        suite=plan.suite,
        suite_digest=plan.suite_digest,
        split=plan.split,
        attack=plan.attack,
        judge=plan.judge,
        candidate=rate(mine, confidence),
        base=rate(other, confidence),
        pairs=pairs(plan.sli, mine, other),
    )
    return measurement, ours + theirs


def measure_alone(plan: Plan, engine: Engine, confidence: float = 0.95, progress: Tick | None = None) -> Rate:
    """Ask one model everything and count, where nothing is compared: to choose among candidates."""
    return rate(_by_behaviour(plan.sli, _ask(plan, engine, "candidate", progress)), confidence)


def _ask(plan: Plan, engine: Engine, who: str, progress: Tick | None) -> list[Transcript]:
    replies = engine.answer([asked.request for asked in plan.asked], progress)
    return [
        Transcript(
            plan.sli, plan.suite, plan.attack, asked.behaviour, who, asked.request, reply, _outcome(asked, reply)
        )
        for asked, reply in zip(plan.asked, replies, strict=True)
    ]


def _outcome(asked: Asked, reply: Reply) -> Outcome:
    return Outcome.ERROR if reply.error else asked.outcome(reply)


def _by_behaviour(sli: Sli, transcripts: Sequence[Transcript]) -> list[Outcome]:
    grouped: dict[str, list[Outcome]] = {}
    for transcript in transcripts:
        grouped.setdefault(transcript.behaviour, []).append(transcript.outcome)
    return [worst_variant(sli, outcomes) for outcomes in grouped.values()]


def _suite_plan(
    sli: Sli,
    suite: Suite,
    attack: str,
    card: JudgeCard,
    outcome: Callable[[Request], Callable[[Reply], Outcome]],
    system: str,
) -> Plan:
    requests = [
        (behaviour, Request(text=text, prefill=prefill, system=system))
        for behaviour, text, prefill in _attacked(suite, attack)
    ]
    asked = tuple(Asked(behaviour, request, outcome(request)) for behaviour, request in requests)
    return Plan(sli, suite.name, digest(suite), suite.split, attack, card, asked)


def _attacked(suite: Suite, attack: str) -> Iterator[tuple[str, str, str]]:
    prompts: Any = plugins.load(ATTACKS, attack).prompts
    for behaviour in suite.behaviours:
        for prompt in prompts(behaviour):
            yield behaviour.id, prompt.text, prompt.prefill


def _judged(judge: Any, asked: Request, reply: Reply, *, hit: Judgement) -> Outcome:
    judgement = judge.judge(asked.text, reply.text, prefill=asked.prefill).judgement
    return Outcome.UNDECIDED if judgement is Judgement.UNDECIDED else _hit(judgement is hit)


def _hit(value: bool) -> Outcome:
    return Outcome.HIT if value else Outcome.MISS


def _exact(name: str, kind: str) -> JudgeCard:
    return JudgeCard(
        name=name,
        kind=kind,
        calibrated_on="",
        true_positive_rate=None,
        false_positive_rate=None,
        kappa=None,
        caveat="a fixed rule, not a classifier",
    )
