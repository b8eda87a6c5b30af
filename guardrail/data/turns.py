"""The turns of a chat row: every one is read as it is, or the row is refused by line.

What the file says of a turn beside role and content (tool calls, reasoning, names) is refused unless the policy ignores
it by name, as ``messages.name``: without it the model would be trained to something that the file does not say. Only
the last turn is trained; earlier ones are context. So ``weight: 0`` is what an earlier turn has anyway, and a row whose
last turn has it, or whose earlier turn has another, is refused. Not covered: whether the base's template takes the
turns.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import get_args

from guardrail.data.rows import Row, is_empty, json_value, why_not_json
from guardrail.errors import InvalidInput
from guardrail.samples import Message, TurnRole

ROLE_HELP: Mapping[object, str] = MappingProxyType(
    {
        "developer": "call the role system",
        **dict.fromkeys(("tool", "function", "ipython"), "turns of tools are not read yet: leave these rows out"),
        **dict.fromkeys(("human", "gpt"), "call the roles user and assistant"),
    }
)
SPOKEN = ("role", "content", "weight")


def chat(name: str, row: Row, column: str, ignored: Collection[str] = ()) -> tuple[Message, ...]:
    """The turns in ``column`` of ``row``.

    Raises:
        InvalidInput: it is no chat that ends with the assistant, or a turn says something that would be dropped.
    """
    turns = _turns(name, row, column)
    unread = {key.removeprefix(f"{column}.") for key in ignored if key.startswith(f"{column}.")}
    messages = tuple(_message(name, row.line, number, turn, unread) for number, turn in enumerate(turns))
    if not messages or messages[-1].role != "assistant":
        last = messages[-1].role if messages else "nothing"
        raise InvalidInput(
            f"{name}:{row.line}: the chat ends with {last}",
            expected="a chat that ends with the assistant",
            next_step="remove the turns after the assistant's last, or the row",
        )
    for number, turn in enumerate(turns):
        _check_weight(name, row.line, number, turn, trained=number == len(turns) - 1)
    return messages


def valid_text(name: str, line: int, field: str, value: object) -> str:
    """``value``, which is in ``field``.

    Raises:
        InvalidInput: it is not a text, or not valid Unicode.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise InvalidInput(
            f"{name}:{line}: the field {field!r} is {kind}", expected="a text", next_step=_instead(value)
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}:{line}: the field {field!r} holds half a surrogate pair",
            expected="valid Unicode",
            next_step="repair the row",
        ) from error
    return value


def _instead(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if any("role" in part for part in value):
            return "these are turns: write prompt and completion as one list of turns, called messages"
        return "these are content parts: join the texts of the parts into one text; other parts are not read"
    return "repair the row"


def _turns(name: str, row: Row, column: str) -> list[object]:
    value = row.fields.get(column)
    if isinstance(value, str):  # CSV has no lists: the chat is written as JSON in its cell
        value = _cell(name, row.line, column, value)
    if isinstance(value, dict):  # Parquet writes a list of structs by columns, too
        value = _by_turn(value) or value
    if not isinstance(value, list):
        got = "missing" if column not in row.fields else "null" if value is None else type(value).__name__
        raise InvalidInput(
            f"{name}:{row.line}: the field {column!r} is {got}",
            expected="a list of role and content",
            next_step="repair the row",
        )
    return value


def _by_turn(columns: dict[str, object]) -> list[object]:
    """Turns of which each key's values stand in a list of their own; nothing where the lists differ in length."""
    lists = [value for value in columns.values() if isinstance(value, list)]
    if len(lists) != len(columns) or len({len(values) for values in lists}) != 1:
        return []
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _cell(name: str, line: int, column: str, text: str) -> object:
    try:
        return json_value(text)
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError, too
        python = text.lstrip().startswith(("[{'", '[{"role": \''))
        kind = "Python's repr of a list, not JSON" if python else f"not JSON ({why_not_json(error)})"
        raise InvalidInput(
            f"{name}:{line}: {column} is {kind}",
            expected="a list of role and content, as JSON",
            next_step="write the cell with json.dumps(messages)" if python else "repair the row",
        ) from error


def _message(name: str, line: int, number: int, turn: object, unread: Collection[str]) -> Message:
    if not isinstance(turn, dict):
        raise InvalidInput(f"{name}:{line}: message {number} is {type(turn).__name__}", expected="an object")
    role = turn.get("role")
    if role not in get_args(TurnRole):
        share_gpt = role is None and "from" in turn
        raise InvalidInput(
            f"{name}:{line}: message {number} has the role {role!r}",
            expected="one of " + ", ".join(get_args(TurnRole)),
            next_step="call role and content what is from and value"
            if share_gpt
            else ROLE_HELP.get(role if isinstance(role, str) else None, "repair the row"),
        )
    if dropped := [key for key in turn if key not in SPOKEN and key not in unread and not is_empty(turn[key])]:
        raise InvalidInput(
            f"{name}:{line}: message {number} has {', '.join(map(repr, dropped))}, which training would not read",
            expected="role and content",
            next_step="leave these rows out, or write it into the content; where training need not know it, say so in "
            f"the policy: data: ignore_columns: [{', '.join(f'messages.{key}' for key in dropped)}]",
        )
    return Message(role=role, content=valid_text(name, line, f"messages[{number}].content", turn.get("content")))


def _check_weight(name: str, line: int, number: int, turn: object, *, trained: bool) -> None:
    weight = turn.get("weight") if isinstance(turn, dict) else None
    if weight is None or (isinstance(weight, int | float) and weight == (1 if trained else 0)):
        return
    raise InvalidInput(
        f"{name}:{line}: message {number} has the weight {json.dumps(weight, default=str)}",
        expected="1 for the last turn, which is trained, and 0 for the others, which are context",
        next_step="remove the row; or end a chat at each answer that is to be trained, in rows of their own",
    )
