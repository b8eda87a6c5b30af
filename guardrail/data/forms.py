"""How one row of a data file becomes a sample, by the file's form.

Checks here are structural (a field is there and is text); whether a text is empty, too long or repeated is a matter of
expectations, and whether it is poison one of detectors. Which form a file has is said by ``columns``.
"""

from __future__ import annotations

from collections.abc import Collection

from guardrail.data.columns import ROLES, Columns, Form
from guardrail.data.rows import Row
from guardrail.data.turns import chat, valid_text
from guardrail.errors import InvalidInput
from guardrail.samples import Message, Sample


def sample(name: str, row: Row, form: Form, where: Columns, ignored: Collection[str] = ()) -> Sample:
    """The sample in ``row``; its id is empty (ids are given when all rows are known).

    Raises:
        InvalidInput: a field is missing, null or not text, or a chat is not one; the message names file and line.
    """
    if form == "chat":
        return Sample(id="", line=row.line, messages=chat(name, row, where["messages"], ignored))
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
        raise InvalidInput(
            f"{name}:{row.line}: the field {column!r} is missing", expected="a text", next_step="repair the row"
        )
    return valid_text(name, row.line, column, row.fields[column])
