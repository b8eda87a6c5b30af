"""Which form a data file has (chat, instruction, completion), and that nothing in it would be dropped without a word.

The form follows from the columns of all rows together, not from those of the first; where they fit none or more than
one, nothing is guessed: the error says what was found and how to name the columns. A column that the form does not
read is refused, unless the policy ignores it by name or no row has anything in it: a system prompt that nobody reads
trains another model than its author meant. What the rows hold is a matter of ``forms``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from guardrail.data.rows import Row, is_empty
from guardrail.errors import InvalidInput
from guardrail.plugins import suggestion

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
FOREIGN: Mapping[str, str] = MappingProxyType(
    {
        "conversations": "ShareGPT's turns: call the column messages, and role and content what is from and value",
        "chosen": "preference pairs: keep the prompt and the answer that is to be trained, as prompt and completion",
        "rejected": "preference pairs: keep the prompt and the answer that is to be trained, as prompt and completion",
        "system": "a system prompt: write the rows as messages, with a turn of the role system",
        "history": "earlier turns: write the rows as messages, the earlier turns first",
        "tools": "tools that a template would show the model, which are not read yet: leave these rows out",
        "label": "whether an answer is desired (KTO): keep the desired rows, without the column",
        "data": "rows inside of one object: write the array of rows by itself",
    }
)
"""What columns of other forms are, and what to do with them."""


def resolve(
    name: str, rows: Sequence[Row], columns: Columns | None, ignored: Collection[str] = ()
) -> tuple[Form, Columns]:
    """The form of the file ``name``, and the column of each role.

    Args:
        name: the file, for messages.
        rows: all of its rows.
        columns: role -> column, for columns that are not called like their role; roles are ``messages``;
            ``instruction``, ``input``, ``output``; ``prompt``, ``completion``; and ``id``.
        ignored: columns that the policy leaves out by name.

    Raises:
        InvalidInput: no form fits or several do, a role is unknown, a named column is not there, a column would be
            dropped, or a row is labelled undesired.
    """
    found = tuple(dict.fromkeys(column for row in rows for column in row.fields if column not in ignored))
    named = dict(columns or {})
    _check(name, found, named)
    where = _where(found, named)
    forms = _forms(where, named)
    if len(forms) > 1:
        _require_one_form(name, rows, named, ignored)
    if len(forms) != 1:
        raise InvalidInput(
            f"{name} has the columns {', '.join(found) or '(none)'}, which fit " + (" and ".join(forms) or "no form"),
            expected="messages (chat), or instruction[, input], output (instruction), "
            "or prompt, completion|response (completion)",
            next_step="; ".join(_foreign(found))
            or "name them, for example columns: {prompt: question, completion: answer}",
        )
    _require_desired(name, rows)
    _require_read(
        name, rows, {where[role] for role in (*ROLES[forms[0]], *OPTIONAL[forms[0]], "id") if role in where}, ignored
    )
    return forms[0], where


def _forms(where: Columns, named: Columns) -> list[Form]:
    asked = set(named) - {"id"}
    return [form for form in ROLES if set(ROLES[form]) <= set(where) and asked <= {*ROLES[form], *OPTIONAL[form]}]


def _require_one_form(name: str, rows: Sequence[Row], named: Columns, ignored: Collection[str]) -> None:
    """Refuse, by line, a row of another form than the first; rows that fit several forms are no matter of one line."""
    known: list[Form] = []
    for row in rows:
        forms = _forms(_where(tuple(column for column in row.fields if column not in ignored), named), named)
        known = known or forms
        if len(known) == len(forms) == 1 and forms != known:
            raise InvalidInput(
                f"{name}:{row.line}: the row is of the form {forms[0]}, and rows before it are of the form {known[0]}",
                expected="one form in a file",
                next_step="put the rows of each form into a file of their own",
            )


def _where(found: tuple[str, ...], named: Mapping[str, str]) -> dict[str, str]:
    where = {role: role for role in KNOWN if role in found} | dict(named)
    if "completion" not in where and "prompt" in where and "response" in found:
        where["completion"] = "response"
    return where


def _check(name: str, found: tuple[str, ...], named: Mapping[str, str]) -> None:
    for role, column in named.items():
        if role not in KNOWN:
            raise InvalidInput(
                f"unknown role {role!r} in columns",
                expected="roles " + ", ".join(KNOWN),
                next_step=suggestion(role, KNOWN),
            )
        if column not in found:
            raise InvalidInput(
                f"{name} has no column {column!r}; it has {', '.join(found) or '(none)'}",
                expected=f"a column for {role} that is not among the policy's ignore_columns",
                next_step=suggestion(column, found),
            )


def _foreign(columns: Collection[str]) -> list[str]:
    """What is known of columns that no form here reads."""
    told: dict[str, list[str]] = {}
    for column in columns:
        if column in FOREIGN:
            told.setdefault(FOREIGN[column], []).append(column)
    return [f"{' and '.join(names)}: {what}" for what, names in told.items()]


def _require_desired(name: str, rows: Sequence[Row]) -> None:
    """Also where the policy ignores the column: it cannot mean to train what the file calls undesired."""
    for row in rows:
        label = row.fields.get("label")
        if label is False or (isinstance(label, str) and label.strip().lower() == "false"):
            raise InvalidInput(
                f"{name}:{row.line}: the row is labelled undesired (label: false)",
                expected="rows to be trained",
                next_step="remove such rows; or the column, if it says something else",
            )


def _require_read(name: str, rows: Sequence[Row], read: Collection[str], ignored: Collection[str]) -> None:
    dropped: dict[str, int] = {}
    for row in rows:
        for column, value in row.fields.items():
            if column not in read and column not in ignored and column not in dropped and not is_empty(value):
                dropped[column] = row.line
    if dropped:
        where = ", ".join(f"{column!r} (from line {line} on)" for column, line in dropped.items())
        raise InvalidInput(
            f"{name} has columns that training would not read: {where}",
            expected="only " + ", ".join(sorted(read)),
            next_step="; ".join(
                [
                    *_foreign(dropped),
                    "where training need not know it, say so in the policy: "
                    f"data: ignore_columns: [{', '.join(dropped)}]",
                ]
            ),
        )
