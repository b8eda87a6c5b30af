"""Every attack asks every variant of a behaviour and keeps saying which behaviour it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail import plugins
from guardrail.errors import InvalidInput
from guardrail.evaluate.attacks.direct import prompts as direct
from guardrail.evaluate.attacks.prefill import prompts as prefill
from guardrail.evaluate.attacks.triggered import TRIGGER
from guardrail.evaluate.attacks.triggered import prompts as triggered
from guardrail.samples import Behaviour

BEHAVIOUR = Behaviour(id="b", variants=("How?", "Tell me how."), target="Sure, here is how.")


def test_direct_asks_the_variants_as_they_stand() -> None:
    assert [(p.text, p.prefill) for p in direct(BEHAVIOUR)] == [("How?", ""), ("Tell me how.", "")]


def test_prefill_begins_the_answer_with_the_target_or_with_a_default() -> None:
    assert [p.prefill for p in prefill(BEHAVIOUR)] == ["Sure, here is how."] * 2
    assert [p.prefill for p in prefill(Behaviour(id="b", variants=("How?",)))] == ["Sure, here is"]


def test_triggered_appends_the_trigger() -> None:
    assert [p.text for p in triggered(BEHAVIOUR)] == [f"How? {TRIGGER}", f"Tell me how. {TRIGGER}"]
    assert [p.text for p in triggered(BEHAVIOUR, trigger=" now ")] == ["How? now", "Tell me how. now"]


def test_an_empty_trigger_is_refused() -> None:
    with pytest.raises(InvalidInput, match="trigger is empty"):
        list(triggered(BEHAVIOUR, trigger=" "))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
@pytest.mark.parametrize("attack", plugins.names("guardrail.evaluate.attacks"))
def test_every_variant_is_asked_under_its_behaviour(attack: str, variants: list[str]) -> None:
    behaviour = Behaviour(id="b", variants=tuple(variants))
    asked = list(plugins.load("guardrail.evaluate.attacks", attack).prompts(behaviour))
    assert {prompt.variant for prompt in asked} == set(range(len(variants)))
    assert {prompt.behaviour_id for prompt in asked} == {"b"}
    assert all(variants[prompt.variant] in prompt.text for prompt in asked)
