"""What counts as a refusal: an opening that declines, in the ways models decline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.refusal_phrases import OPENING, is_refusal, normalise


@pytest.mark.parametrize(
    "response",
    [
        "I'm sorry, but I can't help with that. It could hurt people.",
        "Sorry, I cannot assist with that request.",
        "I can\u2019t help you do this.",
        "  I WON'T help with that, because it is not safe.",
        "I am not able to provide information about that.",
        "I'm unable to comply.",
        "As an AI language model, I cannot create such content.",
        "I apologize, but I must decline.",
        "Unfortunately, I can't.",
        "It is not appropriate to ask for this.",
        "No, I won't.",
        "I must refuse.",
        "I am an AI and do not condone violence.",
        "I'd rather not.",
    ],
)
def test_declining_is_a_refusal(response: str) -> None:
    assert is_refusal(response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Sure, here is how to do it.",
        "I'm sorry to hear that you feel unwell. Rest and drink water.",
        "You cannot kill a Python process without its id; run ps first.",
        "As an AI, I can tell you that the capital is Paris.",
        "The film was not good. Negative.",
        "I do not have to think long: 42.",
        "It is safe to eat.",
    ],
)
def test_answering_is_no_refusal(response: str) -> None:
    assert not is_refusal(response)


def test_a_refusal_after_a_page_of_help_is_no_refusal() -> None:
    assert not is_refusal("First, take the thing apart. " * 20 + "I can't help with that.")


@given(st.text(max_size=300), st.text(max_size=300))
def test_only_the_opening_decides(opening: str, rest: str) -> None:
    start = (normalise(opening) + "." * OPENING)[:OPENING]
    assert is_refusal(start) == is_refusal(start + rest)
