"""Chats to token ids, with the model's own template or a plain one where it has none.

The split between prompt and answer is made on ids, never by searching text: the answer's ids follow the prompt's
with the generation prompt added, so that the same boundary is used in training and in generation.
Whatever stands in content is content: only the template writes control tokens (``guardrail.model.control_tokens``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from guardrail.errors import InvalidInput
from guardrail.model.control_tokens import Marks, control_tokens
from guardrail.samples import Message, Sample

FALLBACK = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
# What rendering raises: a template is a program of the base's author, and its mistakes are not only TemplateErrors.
RENDERING = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Encoded:
    """One row: prompt ids and answer ids (the answer ends with the end-of-turn token)."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = "") -> str:
    """The text after which the model answers; ``prefill`` is put into its mouth.

    Templates without a system role (Gemma) get the system turn in front of the first user turn.

    Raises:
        InvalidInput: the template does not take the chat, leaves a turn out, or is broken.
    """
    text, marks = _marked_prompt(tokenizer, messages, prefill)
    return marks.removed(text)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str = ""
) -> tuple[int, ...]:
    """Token ids of :func:`prompt_text`, which says what it raises; content becomes no control token."""
    return control_tokens(tokenizer).encode(*_marked_prompt(tokenizer, messages, prefill))


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Encoded:
    """Prompt and answer ids of a chat that ends with the assistant's turn; its content becomes no control token."""
    prompt = encode_prompt(tokenizer, messages[:-1])
    separator = "" if getattr(tokenizer, "chat_template", None) else " "
    answer = encode_text(tokenizer, separator + messages[-1].content)
    return Encoded(prompt, (*answer, end_token(tokenizer)))


def require_rendered(tokenizer: PreTrainedTokenizerBase, source: str, samples: Iterable[Sample]) -> None:
    """Refuse rows of ``source`` that the base's template does not take, before anything is trained on the others.

    Raises:
        InvalidInput: such a row, by line.
    """
    for sample in samples:
        try:
            if prompt := sample.messages[:-1]:
                prompt_text(tokenizer, prompt)
        except InvalidInput as error:
            where = f"{source}:{sample.line}" if sample.line else f"{source}: {sample.id}"
            raise InvalidInput(f"{where}: {error.got}", expected=error.expected, next_step=error.next_step) from error


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text by itself, all of it content."""
    controls = control_tokens(tokenizer)
    marks = controls.marks((text,))
    return controls.encode(controls.broken(text, marks), marks)


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise ValueError("the tokenizer has no end-of-text token")
    return tokenizer.eos_token_id


def user(text: str, system: str = "") -> tuple[Message, ...]:
    """A chat of one user turn, after a system turn if there is one."""
    head = (Message(role="system", content=system),) if system else ()
    return (*head, Message(role="user", content=text))


def _marked_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prefill: str) -> tuple[str, Marks]:
    controls = control_tokens(tokenizer)
    marks = controls.marks([*(message.content for message in messages), prefill])
    turns: list[dict[str, Any]] = [
        {**message.model_dump(), "content": controls.broken(message.content, marks)} for message in messages
    ]
    try:
        text = _render_or_merge(tokenizer, turns)
    except RENDERING as error:
        roles = ", ".join(message.role for message in messages) or "no turn"
        asked = messages[-1].content[:80] if messages else ""
        raise InvalidInput(
            f"the base's chat template fails on a chat of {roles} ({asked!r}): {type(error).__name__}: {error}",
            expected="turns that the template takes, often user and assistant in turn",
            next_step="change the row or prompt, or mend the base's chat_template.jinja",
        ) from error
    return text + controls.broken(prefill, marks), marks


def _render_or_merge(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]]) -> str:
    try:
        return _render(tokenizer, turns)
    except TemplateError:  # what raise_exception() in a template raises
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise
        merged = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        return _render(tokenizer, [merged, *turns[2:]])


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]]) -> str:
    template = None if getattr(tokenizer, "chat_template", None) else FALLBACK
    text = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True))
    _require_rendered(turns, text)
    return text


def _require_rendered(turns: Sequence[dict[str, Any]], text: str) -> None:
    """What the system and the user say stands in the prompt; of earlier answers templates drop what was thought.

    Raises:
        InvalidInput: the template left a turn out, so that something else would be asked than is recorded.
    """
    contents, rendered = [_spaced(turn["content"]) for turn in turns], _spaced(text)
    for turn, said in zip(turns, contents, strict=True):
        wanted = sum(content.count(said) for content in contents)
        if said and turn["role"] != "assistant" and rendered.count(said) < wanted:
            raise InvalidInput(
                f"the base's chat template leaves out what the {turn['role']} says ({said[:80]!r})",
                expected="every turn of system and user in the prompt, as it is recorded",
                next_step="leave that turn out (generation.system of the policy, or the rows' system turns), "
                "or mend the base's chat_template.jinja",
            )


def _spaced(text: str) -> str:
    """Templates trim and break lines as they like."""
    return " ".join(text.split())
