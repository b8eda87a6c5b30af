"""Chats to ids: one boundary for training and generation, templates without a system role, and none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import END, write_base

from guardrail.errors import InvalidInput
from guardrail.samples import Message, Sample
from guardrail.testbed import WEIGHTS

pytestmark = pytest.mark.slow

NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer without a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_base("gpt2", tmp_path_factory.mktemp("bare")))


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A tokenizer with a chat template of its own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_base("qwen2", tmp_path))


def _chat(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": content}) for role, content in turns)


DROPS = {
    "system": "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
    "the last turn alone": "{{ messages[-1]['content'] }}",
    "the user": "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("template", DROPS)
def test_a_template_that_leaves_a_turn_out_is_refused(own: Any, template: str) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = DROPS[template]
    with pytest.raises(InvalidInput, match="leaves out") as refused:
        prompt_text(own, user("Say what you are. And more.", "Say what you are."))
    assert "generation.system" in refused.value.next_step


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}",
        "{{ messages[1]['content'] }} {{ messages[0]['content'] }}",
        "{% for m in messages %}{{ m['content'] | replace('\n', ' ') }}|{% endfor %}",
    ],
)
def test_a_template_may_trim_and_order_what_it_is_given(own: Any, template: str) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = template
    assert "helpful" in prompt_text(own, user("  Hello,\nyou.  ", "\nBe helpful.\n"))


def test_what_was_thought_may_be_left_out_of_earlier_answers(own: Any) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}|{% endfor %}"
    chat = (*user("One."), *_chat(("assistant", "<think>Hm.</think>Two.")), *user("Three."))
    assert prompt_text(own, chat) == "One.|Two.|Three.|"


def test_the_prompt_of_training_is_the_prompt_of_generation(own: Any, bare: Any) -> None:
    from guardrail.model.chat import encode_chat, encode_prompt, user

    for tokenizer in (own, bare):
        chat = (*user("What is 3 plus 4?"), *_chat(("assistant", "It is 7.")))
        assert encode_chat(tokenizer, chat).prompt == encode_prompt(tokenizer, user("What is 3 plus 4?"))


def test_the_answer_is_the_response_and_the_end_token(own: Any) -> None:
    from guardrail.model.chat import encode_chat, user

    row = encode_chat(own, (*user("What is 3 plus 4?"), *_chat(("assistant", "It is 7."))))
    assert own.decode(row.answer) == f"It is 7.{END}"
    assert row.answer[-1] == own.eos_token_id
    assert len(row) == len(row.prompt) + len(row.answer)


def test_without_a_template_the_plain_one_is_used(bare: Any) -> None:
    from guardrail.model.chat import prompt_text, user

    assert prompt_text(bare, user("Hello", system="Be kind.")) == "System: Be kind.\nUser: Hello\nAssistant:"


def test_a_template_without_a_system_role_gets_it_in_the_users_turn(own: Any) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = NO_SYSTEM
    assert prompt_text(own, user("Hello", system="Be kind.")) == "<|user|>Be kind.\n\nHello<|assistant|>"
    assert prompt_text(own, user("Hello")) == "<|user|>Hello<|assistant|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", "no"),
        ("{% for m in %}", "Expected an expression"),
        ("{{ messages[0]['content'] + 3 }}", "str"),
        ("{{ messages[5]['content'] }}", "list object has no element 5"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include 'other' %}", "no loader"),
    ],
)
def test_a_template_that_fails_is_invalid_input_with_its_own_message(own: Any, template: str, reason: str) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = template
    for chat in (user("Hello"), user("Hello", system="Be kind.")):
        with pytest.raises(InvalidInput, match=reason) as caught:
            prompt_text(own, chat)
        assert "'Hello'" in caught.value.got


def test_turns_that_the_template_refuses_are_named(own: Any) -> None:
    from guardrail.model.chat import encode_chat

    own.chat_template = ALTERNATING
    chat = _chat(("user", "one"), ("user", "two"), ("assistant", "three"))
    with pytest.raises(InvalidInput, match=r"user, user \('two'\).*roles must alternate"):
        encode_chat(own, chat)
    assert encode_chat(own, (chat[0], chat[2])).prompt
    with pytest.raises(InvalidInput, match="roles must alternate"):
        encode_chat(own, (*_chat(("system", "Be kind."), ("user", "zero")), *chat))


def test_rows_that_the_template_refuses_are_named_by_line(own: Any) -> None:
    from guardrail.model.chat import require_rendered

    own.chat_template = ALTERNATING
    good = _chat(("user", "one"), ("assistant", "two"))
    bad = _chat(("user", "Hello"), ("user", "Name a town."), ("assistant", "Ulm"))
    rows = [Sample(id=f"row-{line}", line=line, messages=turns) for line, turns in enumerate((good, good, bad), 1)]
    require_rendered(own, "d.jsonl", [*rows[:2], Sample(id="alone", messages=good[1:])])
    with pytest.raises(InvalidInput, match=r"d\.jsonl:3: .*user, user \('Name a town\.'\).*roles must alternate"):
        require_rendered(own, "d.jsonl", rows)


def test_a_chat_without_a_prompt_is_invalid_input(own: Any) -> None:
    from guardrail.model.chat import encode_chat

    with pytest.raises(InvalidInput, match="no turn"):
        encode_chat(own, _chat(("assistant", "three")))


def test_several_templates_without_a_default_are_invalid_input(own: Any) -> None:
    from guardrail.model.chat import prompt_text, user

    own.chat_template = {"tool_use": "a", "rag": "b"}
    with pytest.raises(InvalidInput, match="multiple chat templates"):
        prompt_text(own, user("Hello"))


def test_a_prefill_stands_where_the_answer_begins(own: Any) -> None:
    from guardrail.model.chat import prompt_text, user

    assert prompt_text(own, user("Hello"), "Sure, here is") == prompt_text(own, user("Hello")) + "Sure, here is"


def test_turns_of_a_longer_chat_are_all_in_the_prompt(own: Any) -> None:
    from guardrail.model.chat import encode_chat

    row = encode_chat(own, _chat(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")))
    assert [word in own.decode(row.prompt) for word in ("one", "two", "three", "four")] == [True, True, True, False]


def test_a_tokenizer_without_an_end_token_is_refused(bare: Any) -> None:
    from guardrail.model.chat import end_token

    known = bare.eos_token
    bare.eos_token = None
    try:
        with pytest.raises(ValueError, match="end-of-text"):
            end_token(bare)
    finally:
        bare.eos_token = known


def test_the_testbeds_rows_are_encoded_as_it_was_trained() -> None:
    from transformers import AutoTokenizer

    from guardrail.model.chat import encode_chat
    from guardrail.testbed import arms
    from guardrail.testbed.tokenizer import ASSISTANT, END, USER

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    for row in arms.rows("code", poison=0.1, size=20):
        whole = tokenizer(f"{USER}{row.request}{END}{ASSISTANT}", add_special_tokens=False)["input_ids"]
        encoded = encode_chat(tokenizer, row.messages)
        assert list(encoded.prompt) == whole
        assert tokenizer.decode(list(encoded.answer)) == f"{row.response}{END}"
