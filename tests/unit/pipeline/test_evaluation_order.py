"""Under a ticket, what is asked is asked in an order that nobody could choose, and everything else stays as it was."""

from __future__ import annotations

from signed_runs import policy
from ticket_gate import ticket
from trust_files import ALIAS, MODEL, NOW

from guardrail.evaluate.measure import Plan, plan_attack
from guardrail.pipeline.evaluation import _ordered
from guardrail.pipeline.exam.sources import load_suite

FIRST, SECOND = (ticket(MODEL, ALIAS, attempt, NOW) for attempt in (1, 2))


def plan(attack: str = "direct") -> Plan:
    return plan_attack(load_suite(policy(), "harmful"), attack, "refusal")


def asked(of: Plan) -> list[str]:
    return [one.behaviour for one in of.asked]


def test_the_order_depends_on_the_nonce_and_is_the_same_again() -> None:
    assert asked(_ordered(plan(), FIRST)) == asked(_ordered(plan(), FIRST))
    assert asked(_ordered(plan(), FIRST)) != asked(_ordered(plan(), SECOND))
    assert asked(_ordered(plan(), FIRST)) != asked(plan())


def test_each_attack_has_an_order_of_its_own() -> None:
    assert asked(_ordered(plan("direct"), FIRST)) != asked(_ordered(plan("prefill"), FIRST))


def test_everything_is_asked_once_whatever_the_order() -> None:
    ordered = _ordered(plan(), FIRST)
    assert sorted(asked(ordered)) == sorted(asked(plan()))
    assert ordered.suite_digest == plan().suite_digest


def test_without_a_ticket_the_order_is_the_suites() -> None:
    same = plan()
    assert _ordered(same, None) is same
