"""MLflow's registry tables alone, in a database of their own under a collation of one's choice. Not a test file.

MLflow's other tables take longest to make and hold no names. Not covered: servers (``gated_servers.py``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matrix import ADMIN, execute
from sqlalchemy import Engine, create_engine, text

from guardrail.gate.store.collations import ALIASES, NAMES

LAST = 0xFFFF
"""How far characters are tried."""


@contextmanager
def mysql(collation: str = "utf8mb4_general_ci", *, statements: Sequence[str] = ()) -> Iterator[str]:
    """The address of an empty registry whose columns have this collation, changed by ``statements``."""
    with _database("mysql", f" CHARACTER SET {collation.partition('_')[0]} COLLATE {collation}") as uri:
        yield _made(uri, statements)


@contextmanager
def postgresql(collation: str = "", *, statements: Sequence[str] = ()) -> Iterator[str]:
    """The same; ``collation`` is the ICU locale of a non-deterministic one."""
    with _database("postgresql", "") as uri:
        made = [f"CREATE COLLATION folding (provider = icu, locale = '{collation}', deterministic = false)"]
        columns = [
            f"ALTER TABLE {one.table} ALTER {one.name} TYPE varchar(256) COLLATE folding" for one in (*NAMES, *ALIASES)
        ]
        yield _made(uri, [*(made + columns if collation else ()), *statements])


def sqlite(folder: Path, column: str = "VARCHAR(256)") -> str:
    """The same, with such columns."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = _made(f"sqlite:///{folder / 'mlflow.db'}", ())
    with _engine(uri) as engine, engine.begin() as connection:
        made = {str(row[0]): str(row[1]) for row in connection.execute(text("SELECT name, sql FROM sqlite_master"))}
        connection.execute(text("PRAGMA writable_schema = ON"))
        for one in (*NAMES, *ALIASES):
            made[one.table] = made[one.table].replace(f"{one.name} VARCHAR(256)", f"{one.name} {column}")
            connection.execute(
                text("UPDATE sqlite_master SET sql = :sql WHERE name = :name AND type = 'table'"),
                {"sql": made[one.table], "name": one.table},
            )
    return uri


@contextmanager
def only_these_tables() -> Iterator[None]:
    """MLflow's store is content with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlflow.store.model_registry.sqlalchemy_store._all_tables_exist", lambda _: True)
        yield


def stock(uri: str) -> Any:
    """MLflow's own store."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri)


def collations() -> list[str]:
    """All that this server has for utf8mb4."""
    question = (
        "SELECT FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY "
        "WHERE CHARACTER_SET_NAME = 'utf8mb4'"
    )
    with _engine(ADMIN["mysql"]) as engine, engine.connect() as connection:
        return [str(row[0]) for row in connection.execute(text(question))]


def equal_to(uri: str, collation: str, name: str) -> list[str]:
    """Every spelling that a collation takes for ``name``: one character put in, or in another's place."""
    places = range(0, len(name), 3)
    made = [f"(SELECT CONCAT(:head{i}, c, :tail{i}) AS v FROM characters)" for i in places]  # noqa: S608
    put_in = [f"(SELECT CONCAT(:head{i}, c, SUBSTR(:name, {i + 1})) AS v FROM characters)" for i in places]  # noqa: S608
    asked = f"SELECT v FROM ({' UNION ALL '.join(made + put_in)}) s WHERE v = :name COLLATE {collation}"  # noqa: S608
    given = {f"head{i}": name[:i] for i in places} | {f"tail{i}": name[i + 1 :] for i in places}
    with _engine(uri) as engine, engine.connect() as connection:
        found = connection.execute(text(asked), {**given, "name": name})
        return sorted({str(row[0]) for row in found} - {name})


@contextmanager
def characters() -> Iterator[str]:
    """The address of a database with the table ``characters``."""
    points = [point for point in range(LAST) if not 0xD800 <= point < 0xE000]
    with _database("mysql", " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin") as uri:
        with _engine(uri) as engine, engine.begin() as connection:
            connection.execute(text("CREATE TABLE characters (c VARCHAR(1))"))
            for start in range(0, len(points), 5000):
                rows = [{"c": chr(point)} for point in points[start : start + 5000]]
                connection.execute(text("INSERT INTO characters VALUES (:c)"), rows)
        yield uri


@contextmanager
def _database(kind: str, how: str) -> Iterator[str]:
    name = f"guardrail_{uuid.uuid4().hex[:12]}"
    execute(ADMIN[kind], f"CREATE DATABASE {name}{how}")
    try:
        yield ADMIN[kind].rpartition("/")[0] + f"/{name}"
    finally:
        execute(ADMIN[kind], f"DROP DATABASE {name}" + (" WITH (FORCE)" if kind == "postgresql" else ""))


def _made(uri: str, statements: Sequence[str]) -> str:
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry.dbmodels import models

    kinds: list[Any] = [
        models.SqlRegisteredModel,
        models.SqlModelVersion,
        models.SqlRegisteredModelTag,
        models.SqlModelVersionTag,
        models.SqlRegisteredModelAlias,
        models.SqlWebhook,
        models.SqlWebhookEvent,
    ]
    with _engine(uri) as engine:
        Base.metadata.create_all(engine, tables=[kind.__table__ for kind in kinds])
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    return uri


@contextmanager
def _engine(uri: str) -> Iterator[Engine]:
    engine = create_engine(uri)
    try:
        yield engine
    finally:
        engine.dispose()
