"""Whether the database takes two names for the same: by case, accents, spaces at the end, or what else it ignores.

The trust file compares names folded (:mod:`guardrail.names`). A database may take still more for equal (under
``utf8mb4_unicode_ci`` some 350 characters count for nothing), and its rows answer to all of those spellings. So the
database is asked, by the collation of every column that holds names, for rows to come; and the table itself, for the
row that is there. Where every column compares exactly, nothing is asked. Of names whose length was seen to, the latest
thousand answers are remembered: collations do not change while the server runs.
Not covered: how a column compares (``collations.py``); names that only look alike (``gated_store.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelAlias
from sqlalchemy import Connection, Engine, select, text

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.trust.trust_file import GuardedModel, Trust
from guardrail.gate.store.collations import ALIASES, NAMES, Collations, collations
from guardrail.names import LONGEST

LONGEST_ALIAS = 255
"""MLflow's own limit."""
REMEMBERED = 1000
"""How many answers are remembered, a few megabytes at most: of names that are no longer than a column."""
AT_ONCE = 200
"""How many names one statement compares: SQLite takes no more than 500."""


def require_name(name: str, what: str = "the name of a model", longest: int = LONGEST) -> None:
    """Length first: whatever is done with a name costs as much as it is long, and some databases cut it short.

    Raises:
        EvidenceInvalid: it is too long, or text that cannot be written down.
    """
    if len(name) > longest:
        raise EvidenceInvalid(f"{what} has {len(name)} characters", expected=f"at most {longest}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EvidenceInvalid(f"{what} is no Unicode text: {name!a}", expected="no lone surrogates") from error


def require_alias(alias: str) -> None:
    """The same of an alias.

    Raises:
        EvidenceInvalid: it is too long, or text that cannot be written down.
    """
    require_name(alias, "the alias", LONGEST_ALIAS)


class Spellings:
    """What one database takes for names of the trust file.

    Raises:
        InvalidInput: on construction, where the gate does not understand how it compares.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names, self._aliases = collations(engine, NAMES), collations(engine, ALIASES)
        self._model, self._alias = (
            lru_cache(REMEMBERED)(partial(self._taken_for, how)) for how in (self._names, self._aliases)
        )

    def model(self, name: str, guarded: Sequence[str]) -> str | None:
        """The guarded name that a column takes ``name`` for, or how the row is spelt that it reaches; None for neither.

        Raises:
            EvidenceInvalid: a column cannot hold the name as it is.
        """
        require_name(name, longest=self._names.longest)
        if not self._names.inexact or not guarded:
            return None
        column: Any = SqlRegisteredModel.name
        return self._model(name, tuple(guarded)) or self._there(select(column).where(column == name))

    def alias(self, model: GuardedModel, alias: str) -> str | None:
        """The protected alias that the column takes ``alias`` for, or how the row is spelt that it reaches.

        Raises:
            EvidenceInvalid: the column cannot hold the alias as it is.
        """
        require_name(alias, "the alias", self._aliases.longest)
        if not self._aliases.inexact:
            return None
        row: Any = SqlRegisteredModelAlias
        there = select(row.alias).where(row.name == model.name, row.alias == alias)
        return self._alias(alias, tuple(entry.alias for entry in model.aliases)) or self._there(there)

    def _taken_for(self, how: Collations, name: str, known: tuple[str, ...]) -> str | None:
        with self._engine.connect() as connection:
            _require_kept(connection, how, name)
            return _equal(connection, how, name, known)

    def _there(self, spelling: Any) -> str | None:
        """How the row is spelt that a name reaches."""
        with self._engine.connect() as connection:
            found: str | None = connection.execute(spelling.limit(1)).scalar()
            return found

    def require_distinct(self, trust: Trust) -> None:
        """No two guarded names are one to the database, and it holds each as it is: else one would answer for another.

        Raises:
            EvidenceInvalid: two are, or it does not.
        """
        names = [model.name for model in trust.models]
        aliases = sorted({entry.alias for model in trust.models for entry in model.aliases})
        with self._engine.connect() as connection:
            for name in names if self._names.inexact else ():
                _require_kept(connection, self._names, name)
            for pair in _equal_pairs(connection, self._names, names):
                raise _one_to_the_database("guarded models", pair)
            for pair in _equal_pairs(connection, self._aliases, aliases):
                if any({pair.one, pair.other} <= {entry.alias for entry in model.aliases} for model in trust.models):
                    raise _one_to_the_database("protected aliases", pair)


def _require_kept(connection: Connection, how: Collations, name: str) -> None:
    """Every column would hold the name as it was sent: nothing replaced, nothing cut off."""
    asked = sorted({one.kept(":name") for one in how.inexact if one.kept_before})
    if not asked:
        return
    wanted = name.encode("utf-8").hex()
    kept = connection.execute(text(f"SELECT {', '.join(asked)}"), {"name": name}).one()
    if any(str(one).lower() != wanted for one in kept):
        raise EvidenceInvalid(
            f"the database cannot hold {name!a} as it is",
            expected="characters that its columns know",
            next_step="choose another name, or give MLflow's tables the character set utf8mb4",
        )


@dataclass(frozen=True)
class _Listed:
    """Some names as a table of SQL, ``nr`` and ``txt``, and its parameters."""

    sql: str
    given: Mapping[str, str]

    @classmethod
    def of(cls, names: Sequence[str], start: int, letter: str) -> _Listed:
        """Those from ``start``, as many as fit one statement."""
        some = dict(enumerate(names[start : start + AT_ONCE], start))
        rows = (f"SELECT {nr} AS nr, :{letter}{nr} AS txt" for nr in some)
        return cls(f"({' UNION ALL '.join(rows)}) {letter}", {f"{letter}{nr}": name for nr, name in some.items()})


def _equal(connection: Connection, how: Collations, name: str, known: Sequence[str]) -> str | None:
    """The first of the known names that is equal to ``name`` in one of these ways."""
    is_equal = " OR ".join(f"{one.of('a.txt')} = {one.of(':name')}" for one in how.inexact)
    for start in range(0, len(known), AT_ONCE):
        listed = _Listed.of(known, start, "a")
        question = text(f"SELECT MIN(a.nr) FROM {listed.sql} WHERE {is_equal}")  # noqa: S608 - no value is in it
        found = connection.execute(question, {**listed.given, "name": name}).scalar()
        if found is not None:
            return known[int(found)]
    return None


@dataclass(frozen=True)
class _Pair:
    """Two names that are one."""

    one: str
    other: str


def _equal_pairs(connection: Connection, how: Collations, names: Sequence[str]) -> Iterator[_Pair]:
    """Any two that are equal in one of these ways."""
    is_equal = " OR ".join(f"{one.of('a.txt')} = {one.of('b.txt')}" for one in how.inexact)
    starts = range(0, len(names), AT_ONCE) if how.inexact else ()
    for first, second in ((i, j) for i in starts for j in starts if i <= j):
        a, b = _Listed.of(names, first, "a"), _Listed.of(names, second, "b")
        wanted = f"SELECT a.nr, b.nr FROM {a.sql}, {b.sql} WHERE a.nr < b.nr AND ({is_equal})"  # noqa: S608 - as above
        for one, other in connection.execute(text(wanted), {**a.given, **b.given}).all():
            yield _Pair(names[int(one)], names[int(other)])


def _one_to_the_database(what: str, pair: _Pair) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the {what} {pair.one!a} and {pair.other!a} are one name to this database",
        expected="names that its collation tells apart",
        next_step="rename one of them in the trust file, or give MLflow's columns another collation",
    )
