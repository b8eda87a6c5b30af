"""Which form a data file has (chat, instruction, completion) and how one of its rows becomes a sample.

The form follows from the columns; where they fit none or more than one, nothing is guessed: the error says what was
found and how to name the columns. Checks here are structural (a field is there and is text); whether a text is empty,
too long or repeated is a matter of expectations, and whether it is poison one of detectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from guardrail.data.rows import Row
from guardrail.errors import InvalidInput
from guardrail.plugins import suggestion
from guardrail.samples import Message, Role, Sample

Form = Literal["chat", "instruction", "completion"]
Columns = Mapping[str, str]

ROLES: Mapping[Form, tuple[str, ...]] = MappingProxyType(
    {
        "chat": ("messages",),
        "instruction": ("instruction", "output"),
        "completion": ("prompt", "completion"),
    }
)
OPTIONAL: Mapping[Form, tuple[str, ...]] = MappingProxyType({"chat": (), "instruction": ("input",), "completion": ()})
KNOWN = ("messages", "instruction", "input", "output", "prompt", "completion", "id")


def resolve(name: str, found: tuple[str, ...], columns: Columns | None) -> tuple[Form, Columns]:
    """The form of a file with the columns ``found``, and the column of each role.

    Args:
        name: the file, for messages.
        found: its column names.
        columns: role -> column, for columns that are not called like their role; roles are ``messages``;
            ``instruction``, ``input``, ``output``; ``prompt``, ``completion``; and ``id``.

    Raises:
        InvalidInput: no form fits or several do, a role is unknown, or a named column is not there.
    """
    named = dict(columns or {})
    _check(name, found, named)
    where = _where(found, named)
    asked = set(named) - {"id"}
    forms = [form for form in ROLES if set(ROLES[form]) <= set(where) and asked <= {*ROLES[form], *OPTIONAL[form]}]
    if len(forms) != 1:
        raise InvalidInput(
            f"{name} has the columns {', '.join(found) or '(none)'}, which fit " + (" and ".join(forms) or "no form"),
            expected="messages (chat), or instruction[, input], output (instruction), "
            "or prompt, completion|response (completion)",
            next_step="name them, for example columns: {prompt: question, completion: answer}",
        )
    return forms[0], where


def _where(found: tuple[str, ...], named: Mapping[str, str]) -> dict[str, str]:
    where = {role: role for role in KNOWN if role in found} | dict(named)
    if "completion" not in where and "prompt" in where and "response" in found:
        where["completion"] = "response"
    return where


def _check(name: str, found: tuple[str, ...], named: Mapping[str, str]) -> None:
    for role, column in named.items():
        if role not in KNOWN:
            raise InvalidInput(
                f"unknown role {role!r} in columns", expected="roles " + ", ".join(KNOWN),
                next_step=suggestion(role, KNOWN),
            )  # fmt: skip
        if column not in found:
            raise InvalidInput(
                f"{name} has no column {column!r}; it has {', '.join(found) or '(none)'}",
                expected=f"a column for {role}", next_step=suggestion(column, found),
            )  # fmt: skip


def sample(name: str, row: Row, form: Form, where: Columns) -> Sample:
    """The sample in ``row``; its id is empty (ids are given when all rows are known).

    Raises:
        InvalidInput: a field is missing, null or not text, or a chat is not one; the message names file and line.
    """
    if form == "chat":
        return Sample(id="", line=row.line, messages=_chat(name, row, where["messages"]))
    return Sample(id="", line=row.line, messages=_pair(name, row, form, where))


def _pair(name: str, row: Row, form: Form, where: Columns) -> tuple[Message, ...]:
    asks, answers = ROLES[form]
    request, response = (text(name, row, where[role]) for role in (asks, answers))
    extra = where.get("input")
    if form == "instruction" and extra is not None and row.fields.get(extra) is not None:
        given = text(name, row, extra)
        request = f"{request}\n\n{given}" if given.strip() else request
    return Message(role="user", content=request), Message(role="assistant", content=response)


def text(name: str, row: Row, column: str) -> str:
    """The text in ``column`` of ``row``.

    Raises:
        InvalidInput: it is missing, null or not text.
    """
    if column not in row.fields:
        raise InvalidInput(f"{name}:{row.line}: the field {column!r} is missing", expected="a text")
    return _valid(name, row.line, column, row.fields[column])


def _valid(name: str, line: int, field: str, value: object) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise InvalidInput(
            f"{name}:{line}: the field {field!r} is {kind}", expected="a text", next_step="repair the row"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}:{line}: the field {field!r} holds half a surrogate pair", expected="valid Unicode"
        ) from error
    return value


def _chat(name: str, row: Row, column: str) -> tuple[Message, ...]:
    turns = _turns(name, row, column)
    messages = tuple(_message(name, row.line, number, turn) for number, turn in enumerate(turns))
    if not messages or messages[-1].role != "assistant":
        last = messages[-1].role if messages else "nothing"
        raise InvalidInput(
            f"{name}:{row.line}: the chat ends with {last}", expected="a chat that ends with the assistant"
        )
    return messages


def _turns(name: str, row: Row, column: str) -> list[object]:
    value = row.fields.get(column)
    if isinstance(value, str):  # CSV has no lists: the chat is written as JSON in its cell
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError, too
            raise InvalidInput(
                f"{name}:{row.line}: {column} is not JSON", expected="a list of role and content"
            ) from error
    if not isinstance(value, list):
        got = "missing" if column not in row.fields else "null" if value is None else type(value).__name__
        raise InvalidInput(f"{name}:{row.line}: the field {column!r} is {got}", expected="a list of role and content")
    return value


def _message(name: str, line: int, number: int, turn: object) -> Message:
    if not isinstance(turn, dict):
        raise InvalidInput(f"{name}:{line}: message {number} is {type(turn).__name__}", expected="an object")
    role = turn.get("role")
    if role not in get_args(Role):
        raise InvalidInput(
            f"{name}:{line}: message {number} has the role {role!r}", expected="one of " + ", ".join(get_args(Role))
        )
    return Message(role=role, content=_valid(name, line, f"messages[{number}].content", turn.get("content")))
