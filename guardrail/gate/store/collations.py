"""How the database compares the columns that hold names: by which collation, up to which length.

An exact column tells any two different texts apart. Of every other one the gate must know how to have two texts
compared as the column would compare them, before a row is there. The catalogues know: ``information_schema`` on MySQL
and MariaDB, ``pg_attribute`` and ``pg_collation`` on PostgreSQL, the tables' own definitions on SQLite. What is not
understood (another database, another type of column, a collation of somebody's own) stops the server.
Not covered: columns that are altered while the server runs; it reads them once, at its start.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, text

from guardrail.errors import InvalidInput
from guardrail.names import LONGEST


@dataclass(frozen=True)
class Column:
    """A column that holds names, of models or of their aliases."""

    table: str
    name: str = "name"

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


NAMES = (
    Column("registered_models"),
    Column("model_versions"),
    Column("registered_model_aliases"),
    Column("registered_model_tags"),
    Column("model_version_tags"),
)
"""Where MLflow looks for a model by its name; they may have different collations."""
ALIASES = (Column("registered_model_aliases", "alias"),)


@dataclass(frozen=True)
class Comparison:
    """SQL around a value that has the database compare it as some column does; all empty for an exact column.

    ``kept`` is around a value, too: what the column would hold of it, in hexadecimal UTF-8. Empty where a column holds
    every text that the driver can send.
    """

    before: str = ""
    after: str = ""
    kept_before: str = ""
    kept_after: str = ""

    def of(self, value: str) -> str:
        """The value as the column compares it."""
        return f"{self.before}{value}{self.after}"

    def kept(self, value: str) -> str:
        """What the column would hold of the value."""
        return f"{self.kept_before}{value}{self.kept_after}"


EXACT = Comparison()


@dataclass(frozen=True)
class ComparedColumn:
    """How one column compares, and how many characters it holds."""

    comparison: Comparison
    longest: int = LONGEST


@dataclass(frozen=True)
class Collations:
    """What some columns amount to: every inexact way in which one of them compares, and what the shortest holds."""

    inexact: tuple[Comparison, ...]
    longest: int

    @classmethod
    def of(cls, columns: Iterable[ComparedColumn]) -> Collations:
        """Every way once."""
        found = tuple(columns)
        inexact = tuple(dict.fromkeys(one.comparison for one in found if one.comparison != EXACT))
        return cls(inexact, min((one.longest for one in found), default=LONGEST))


def collations(engine: Engine, columns: Iterable[Column]) -> Collations:
    """How these columns compare.

    Raises:
        InvalidInput: the gate does not understand the database, or one of the columns.
    """
    read = DATABASES.get(engine.dialect.name)
    if read is None:
        raise InvalidInput(
            f"the gate does not know how a {engine.dialect.name} database compares names",
            expected=f"one of {', '.join(DATABASES)}",
            next_step="keep the registry in one of these",
        )
    with engine.connect() as connection:
        return Collations.of([read(connection, column) for column in columns])


MYSQL = text(
    "SELECT DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :table AND COLUMN_NAME = :column"
)
MYSQL_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


def _mysql(connection: Connection, column: Column) -> ComparedColumn:
    """By the collation, always: even the binary ones mostly ignore spaces at the end. A character set that lacks a
    character stores another one, or cuts the name short, where the server is not strict."""
    kind, longest, charset, collation = _one(connection, MYSQL, column)
    if str(kind).lower() != "varchar" or not (_is_plain(charset) and _is_plain(collation)):
        raise _not_understood(column, f"{kind}, {charset}, {collation}")
    return ComparedColumn(
        Comparison(
            before="CONVERT(",
            after=f" USING {charset}) COLLATE {collation}",
            kept_before="HEX(CONVERT(CONVERT(",
            kept_after=f" USING {charset}) USING utf8mb4))",
        ),
        min(int(longest), LONGEST),
    )


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and MYSQL_NAME.fullmatch(name) is not None


POSTGRESQL = text(
    "SELECT kind.typname, home.nspname, a.atttypmod, c.collname, place.nspname, c.collisdeterministic "
    "FROM pg_attribute a JOIN pg_type kind ON kind.oid = a.atttypid "
    "JOIN pg_namespace home ON home.oid = kind.typnamespace JOIN pg_collation c ON c.oid = a.attcollation "
    "JOIN pg_namespace place ON place.oid = c.collnamespace "
    "WHERE a.attrelid = to_regclass(:table) AND a.attname = :column AND NOT a.attisdropped"
)
VARCHAR_HEAD = 4
"""What ``atttypmod`` counts beside the characters."""


def _postgresql(connection: Connection, column: Column) -> ComparedColumn:
    """Deterministic collations compare bytes when they are done; a database's own is always one of these."""
    kind, home, modifier, collation, place, deterministic = _one(connection, POSTGRESQL, column)
    if (kind, home) not in (("varchar", "pg_catalog"), ("text", "pg_catalog")) or deterministic not in (True, False):
        raise _not_understood(column, f"{home}.{kind}, {collation}")
    longest = min(modifier - VARCHAR_HEAD, LONGEST) if modifier > VARCHAR_HEAD else LONGEST
    if deterministic:
        return ComparedColumn(EXACT, longest)
    quote = connection.dialect.identifier_preparer.quote_identifier
    name = f"{quote(str(place))}.{quote(str(collation))}".replace(":", r"\:")
    return ComparedColumn(Comparison(before="CAST(", after=f" AS text) COLLATE {name}"), longest)


SQLITE = text("SELECT sql FROM sqlite_master WHERE type = 'table' AND lower(name) = :table")
SQLITE_BUILT_IN = MappingProxyType(
    {
        "BINARY": EXACT,
        "NOCASE": Comparison(before="(", after=" COLLATE NOCASE)"),
        "RTRIM": Comparison(before="(", after=" COLLATE RTRIM)"),
    }
)


def _sqlite(connection: Connection, column: Column) -> ComparedColumn:
    """SQLite tells no column's collation; an index takes it over and tells. One is made on an empty copy in memory."""
    (definition,) = _one(connection, SQLITE, column)
    try:
        with closing(sqlite3.connect(":memory:")) as copy:
            copy.execute(definition)
            kinds = {row[1]: str(row[2]).upper() for row in copy.execute(f"PRAGMA table_info({column.table})")}
            copy.execute(f"CREATE INDEX probe ON {column.table} ({column.name})")
            collation = str(next(iter(copy.execute("PRAGMA index_xinfo(probe)")))[4]).upper()
    except (sqlite3.Error, sqlite3.Warning, TypeError) as error:
        raise _not_understood(column, str(error)) from error
    kind = kinds.get(column.name, "")
    if collation not in SQLITE_BUILT_IN or not any(part in kind for part in ("CHAR", "CLOB", "TEXT")) or "INT" in kind:
        raise _not_understood(column, f"{kind}, {collation}")
    return ComparedColumn(SQLITE_BUILT_IN[collation])


def _one(connection: Connection, question: Any, column: Column) -> tuple[Any, ...]:
    found = connection.execute(question, {"table": column.table, "column": column.name}).all()
    if len(found) != 1:
        raise _not_understood(column, f"described {len(found)} times")
    return tuple(found[0])


def _not_understood(column: Column, found: str) -> InvalidInput:
    return InvalidInput(
        f"the gate does not know how the database compares {column}: {found}",
        expected="a column of characters (VARCHAR) with a collation that the database itself describes",
        next_step="give the column the type and a collation that MLflow's own migrations give it, then start again",
    )


DATABASES: Mapping[str, Callable[[Connection, Column], ComparedColumn]] = MappingProxyType(
    {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}
)
