"""The matrix of servers that the gate is tried on, DATABASE-SERVER-AUTH-ARTIFACTS, and which of its cells a run visits.

CI visits as few cells as let every two values meet, the first of them with every test; ``GUARDRAIL_CAMPAIGN=1`` visits
all, ``GUARDRAIL_CELLS=sqlite-uvicorn-plain-s3`` those that it names (artifacts are local if it does not), both with
every test. Databases other than SQLite are expected at 127.0.0.1. Not covered: how servers are started
(``gated_servers.py``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from itertools import combinations, product

DATABASES, SERVERS, AUTHS = ("sqlite", "postgresql", "mysql"), ("uvicorn", "gunicorn"), ("plain", "basic-auth")
ARTIFACTS = ("local", "s3")
ADMIN = {
    "postgresql": "postgresql+psycopg2://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql+pymysql://root@127.0.0.1:3306/",
}
"""Where databases are made."""
COLLATIONS = (
    "utf8mb4_unicode_ci",
    "utf8mb4_uca1400_ai_ci",
    "utf8mb4_unicode_520_ci",
    "utf8mb4_general_ci",
    "utf8mb4_uca1400_as_cs",
    "utf8mb4_unicode_nopad_ci",
    "utf8mb4_turkish_ci",
    "utf8mb4_german2_ci",
    "utf8mb4_roman_ci",
    "utf8mb4_bin",
)
"""One of each family that MariaDB has: CI tries names under these, the campaign under all that the server has. The
servers' databases take turns with the first three, which ignore the most."""
START = {
    "postgresql": "start PostgreSQL at 127.0.0.1:5432 (user postgres, no password)",
    "mysql": "start MariaDB at 127.0.0.1:3306 (user root, no password)",
}


@dataclass(frozen=True)
class Cell:
    """One place of the matrix."""

    database: str = "sqlite"
    server: str = "uvicorn"
    auth: str = "plain"
    artifacts: str = "local"

    def __str__(self) -> str:
        return f"{self.database}-{self.server}-{self.auth}-{self.artifacts}"

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of a name, with or without the artifacts."""
        head, _, last = name.rpartition("-")
        head, artifacts = (head, last) if last in ARTIFACTS else (name, ARTIFACTS[0])
        database, server, auth = head.split("-", 2)
        return cls(database, server, auth, artifacts)

    @property
    def collation(self) -> str:
        """The collation of this cell's database, on MariaDB."""
        return COLLATIONS[(SERVERS.index(self.server) + AUTHS.index(self.auth) + ARTIFACTS.index(self.artifacts)) % 3]


MATRIX = tuple(Cell(*values) for values in product(DATABASES, SERVERS, AUTHS, ARTIFACTS))


def pairs(cell: Cell) -> frozenset[tuple[str, str]]:
    """Every two of its values; no value has two meanings."""
    return frozenset(combinations(astuple(cell), 2))


def covering(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The first cell, then each time the one that lets the most values meet that have not met (Cohen et al., AETG)."""
    missing = set().union(*map(pairs, cells))
    chosen = cells[0]
    while missing:
        yield chosen
        missing -= pairs(chosen)
        chosen = max(cells, key=lambda cell: len(pairs(cell) & missing))


@cache
def visited() -> tuple[Cell, ...]:
    """The cells of this run."""
    if named := os.environ.get("GUARDRAIL_CELLS"):
        return tuple(Cell.named(name) for name in named.split(","))
    return MATRIX if os.environ.get("GUARDRAIL_CAMPAIGN") else tuple(covering(MATRIX))


@cache
def whole() -> tuple[Cell, ...]:
    """Those of them in which every test runs; the others run what may depend on the cell."""
    everything = os.environ.get("GUARDRAIL_CELLS") or os.environ.get("GUARDRAIL_CAMPAIGN")
    return visited() if everything else visited()[:1]


def is_new(cell: Cell, parts: Sequence[str], cells: Sequence[Cell]) -> bool:
    """Whether it is the first of ``cells``, or the first that has its value in one of these parts."""
    earlier = cells[: cells.index(cell)]
    return not earlier or any(getattr(cell, part) not in {getattr(one, part) for one in earlier} for part in parts)


@cache
def absent(database: str) -> str:
    """Why this database cannot be used here, and what to do; empty if it can."""
    if database not in ADMIN:
        return ""
    try:
        execute(ADMIN[database], "SELECT 1")
    except ImportError as error:
        return f"{error}: install the group dev of pyproject.toml"
    except Exception as error:  # whatever a driver raises, this database is not there
        return f"{START[database]}: {str(error).splitlines()[0]}"
    return ""


def execute(uri: str, statement: str) -> None:
    """One statement, outside any transaction."""
    from sqlalchemy import create_engine, text

    engine = create_engine(uri, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
