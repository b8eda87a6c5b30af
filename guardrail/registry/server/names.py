"""Whether the database takes two names for the same: MySQL ignores case, accents and spaces at the end.

The trust file compares names folded (:mod:`guardrail.names`). A database may take still more for equal, and its rows
answer to all of those spellings; so the database itself is asked, by the collation of the column that holds the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from sqlalchemy import Engine, literal, select, union_all

EXACT = frozenset({"sqlite", "postgresql"})


def database_equal(engine: Engine, name: str, guarded: Sequence[str]) -> str | None:
    """The guarded name that the database cannot tell from ``name``, if any."""
    if engine.dialect.name in EXACT or not guarded:
        return None
    column: Any = SqlRegisteredModel.name
    nothing: Any = select(column.label("name")).where(literal(1) == 0)
    with engine.connect() as connection:
        for candidate in guarded:
            both = union_all(nothing, select(literal(name).label("name"))).subquery()
            if connection.execute(select(both.c.name).where(both.c.name == candidate)).first() is not None:
                return candidate
    return None
