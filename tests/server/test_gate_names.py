"""Under every collation, what the database takes for a guarded name is guarded: the row that is there, and one to come.

In this process, on real databases; servers are tried by ``test_gate_bypass.py``. Not covered: MySQL 8, whose collations
MariaDB lacks (``utf8mb4_0900_*``); they are asked in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gate_parts import Parts, parts
from gate_trust import guarded_model
from matrix import COLLATIONS, absent
from registry_tables import characters, collations, equal_to, mysql, only_these_tables, postgresql, sqlite, stock
from repository import CAMPAIGN
from sqlalchemy import Engine, create_engine

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import sha256
from guardrail.gate.ledger.journal import draft
from guardrail.gate.store.collations import NAMES
from guardrail.gate.store.database_names import Spellings
from guardrail.names import same
from guardrail.registry.mlflow.mlflow_client import GATE

pytestmark = pytest.mark.slow
MODEL, ALIAS, UNBORN = "guarded", "production", "unborn"
NAME, ALIAS_NAME = re.compile(r"[^/:]+"), re.compile(r"[\w-]+")
"""What MLflow lets through."""
SMALL_D_ABOVE = "\u0369"
"""A combining letter, which the Unicode Collation Algorithm takes for the letter."""
IMPRECISE = "und-u-ks-level1-ka-shifted"
"""Of ICU: letters without case and accents, and no punctuation at all."""


@pytest.fixture(scope="module", autouse=True)
def few_tables() -> Iterator[None]:
    with only_these_tables():
        yield


@pytest.fixture(scope="module")
def table() -> Iterator[str]:
    if why := absent("mysql"):
        pytest.skip(why)
    with characters() as uri:
        yield uri


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One collation of each family, or all that the server has."""
    if "collation" in metafunc.fixturenames:
        metafunc.parametrize("collation", collations() if CAMPAIGN and not absent("mysql") else COLLATIONS)


def some(spellings: Sequence[str], name: str, most: int, pattern: re.Pattern[str] = NAME) -> list[str]:
    """As many as ``most`` that folding does not know, and as many that it does, of those that MLflow lets through."""
    usable = [one for one in spellings if pattern.fullmatch(one)]
    odd = [one for one in usable if not same(one, name)]
    known = [one for one in usable if same(one, name)]
    return [*odd[:: len(odd) // most + 1], *known[:: len(known) // most + 1]]


@contextmanager
def connected(uri: str) -> Iterator[Engine]:
    engine = create_engine(uri)
    try:
        yield engine
    finally:
        engine.dispose()


def look(uri: str) -> list[object]:
    """Everything that MLflow's own store says of the guarded model."""
    model = stock(uri).get_registered_model(MODEL)
    versions = stock(uri).search_model_versions(f"name = '{MODEL}'")
    return [
        model.name,
        model.description,
        model.tags,
        model.aliases,
        [(one.version, one.current_stage, one.description, one.tags, one.source) for one in versions],
    ]


def promoted_twice(gate: Parts) -> None:
    gate.store.create_registered_model(MODEL)
    assert [gate.promote(gate.bundle(MODEL, seed)) for seed in (0, 1)] == ["1", "2"]


def refused(move: Callable[..., object], *given: object) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=GATE) as caught:
        move(*given)
    assert caught.value.error_code == "PERMISSION_DENIED"


def not_understood(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="does not know how"):
        Spellings(engine)


def one_to_the_database(engine: Engine, trust: object) -> None:
    with pytest.raises(EvidenceInvalid, match="one name to this database"):
        Spellings(engine).require_distinct(cast(Any, trust))


def moves(store: Any, version: str = "1") -> list[Callable[[str], object]]:
    """What a client may try under a spelling of the name."""
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

    return [
        lambda name: store.set_registered_model_alias(name, ALIAS, version),
        lambda name: store.set_registered_model_alias(name, "other", version),
        lambda name: store.delete_registered_model_alias(name, ALIAS),
        lambda name: store.set_registered_model_tag(name, RegisteredModelTag("a", "b")),
        lambda name: store.delete_registered_model_tag(name, "a"),
        lambda name: store.set_model_version_tag(name, version, ModelVersionTag("a", "b")),
        lambda name: store.delete_model_version_tag(name, "2", "guardrail.verdict"),
        lambda name: store.create_model_version(name, "s3://evil/model"),
        lambda name: store.update_registered_model(name, "gate: PASSED"),
        lambda name: store.update_model_version(name, version, "gate: PASSED"),
        lambda name: store.transition_model_version_stage(name, version, "Production", False),
        lambda name: store.rename_registered_model(name, "away"),
        lambda name: store.delete_model_version(name, version),
        lambda name: store.delete_registered_model(name),
    ]


def arrivals(store: Any) -> list[Callable[[str], object]]:
    """How a client may make a row of that name."""
    return [store.create_registered_model, lambda name: store.rename_registered_model("innocent", name)]


def test_every_spelling_that_a_collation_takes_for_the_name_is_known(table: str, collation: str) -> None:
    found = some(equal_to(table, collation, MODEL), MODEL, 500 if CAMPAIGN else 50)
    others = ["other", "guard", "guardedd", "hguarded", "gua-rded", "un" + MODEL]
    with mysql(collation) as uri, connected(uri) as engine:
        spellings = Spellings(engine)
        assert [one for one in found if spellings.model(one, ["other", MODEL]) != MODEL] == []
        assert [one for one in others if spellings.model(one, [MODEL]) is not None] == []


def test_no_spelling_reaches_what_is_guarded(table: str, collation: str, tmp_path: Path) -> None:
    names, unborn = (some(equal_to(table, collation, name), name, 3) for name in (MODEL, UNBORN))
    aliases = some(equal_to(table, collation, ALIAS), ALIAS, 3, ALIAS_NAME)
    with mysql(collation) as uri, parts(tmp_path, uri) as gate:
        promoted_twice(gate)
        gate.store.create_registered_model("innocent")
        before = look(uri)
        for name in names:
            for move in moves(gate.store):
                refused(move, name)
        for name in (*names, *unborn):
            for move in arrivals(gate.store):
                refused(move, name)
        for alias in aliases:
            refused(gate.store.set_registered_model_alias, MODEL, alias, "1")
            refused(gate.store.delete_registered_model_alias, MODEL, alias)
        assert look(uri) == before
        for name in names[:1]:
            stock(uri).set_registered_model_alias(name, ALIAS, "1")
            assert stock(uri).get_registered_model(MODEL).aliases == {ALIAS: 1}


def test_what_was_revoked_resolves_under_no_spelling(table: str, collation: str, tmp_path: Path) -> None:
    names = some(equal_to(table, collation, MODEL), MODEL, 3)
    aliases = some(equal_to(table, collation, ALIAS), ALIAS, 3, ALIAS_NAME)
    with mysql(collation) as uri, parts(tmp_path, uri) as gate:
        bundle = gate.bundle(MODEL, 0)
        gate.store.create_registered_model(MODEL)
        gate.promote(bundle)
        assert gate.store.get_model_version_by_alias(MODEL, ALIAS).version == 1
        order = draft("revocation", subject=bundle.decision.manifest, statement=sha256(b"an order"))
        gate.registrar.journal.append(lambda _: order)
        for name, alias in [(MODEL, ALIAS), *((one, ALIAS) for one in names), *((MODEL, one) for one in aliases)]:
            assert stock(uri).get_model_version_by_alias(name, alias).version == 1
            refused(gate.store.get_model_version_by_alias, name, alias)


FOLDED_BY_ICU = [
    "gua-rded",
    "gu arded",
    "guarded!",
    "(guarded)",
    "guar,ded",
    "guard\u00e9d",
    "GUARDED",
    f"guar{SMALL_D_ABOVE}ed",
]


def test_a_non_deterministic_collation_of_postgresql_is_asked(tmp_path: Path) -> None:
    if why := absent("postgresql"):
        pytest.skip(why)
    with postgresql(IMPRECISE) as uri, parts(tmp_path, uri) as gate:
        promoted_twice(gate)
        gate.store.create_registered_model("innocent")
        before = look(uri)
        for name in FOLDED_BY_ICU:
            assert stock(uri).get_registered_model(name).name == MODEL
            for move in (*moves(gate.store), *arrivals(gate.store)):
                refused(move, name)
        refused(gate.store.create_registered_model, "un-born")
        refused(gate.store.set_registered_model_alias, MODEL, "pro-duction", "1")
        assert look(uri) == before
        stock(uri).set_registered_model_alias("gua-rded", ALIAS, "1")
        assert stock(uri).get_registered_model(MODEL).aliases == {ALIAS: 1}


@pytest.mark.parametrize("locale", ["", "und-u-ks-level2"])
def test_postgresql_is_asked_only_where_it_must_be(locale: str) -> None:
    if why := absent("postgresql"):
        pytest.skip(why)
    with postgresql(locale) as uri, connected(uri) as engine:
        assert Spellings(engine).model("GUARDED", [MODEL]) == (MODEL if locale else None)


@pytest.mark.parametrize(
    ("column", "name"), [("VARCHAR(256) COLLATE NOCASE", "GUARDED"), ("TEXT COLLATE RTRIM", "guarded ")]
)
def test_sqlite_is_asked_by_the_collation_of_its_columns(tmp_path: Path, column: str, name: str) -> None:
    with connected(sqlite(tmp_path, column)) as engine:
        assert Spellings(engine).model(name, ["other", MODEL]) == MODEL
        assert Spellings(engine).model("another", ["other", MODEL]) is None
    with connected(sqlite(tmp_path / "plain")) as engine:
        assert Spellings(engine).model(name, [MODEL]) is None


ODD_SQLITE = ["VARCHAR(256) COLLATE mine", "INTEGER", "BLOB", "NUMERIC"]
ODD_MYSQL = ["VARBINARY(256)", "CHAR(250)", "BINARY(250)"]
ODD_POSTGRESQL = ["CHAR(256)", "citext", "named"]


@pytest.mark.parametrize("column", ODD_SQLITE)
def test_a_column_of_sqlite_that_is_not_understood_stops_the_server(tmp_path: Path, column: str) -> None:
    with connected(sqlite(tmp_path, column)) as engine:
        not_understood(engine)


@pytest.mark.parametrize("column", ODD_MYSQL)
def test_a_column_of_mariadb_that_is_not_understood_stops_the_server(column: str) -> None:
    if why := absent("mysql"):
        pytest.skip(why)
    changed = [f"ALTER TABLE registered_model_aliases MODIFY alias {column} NOT NULL"]
    if column == "TINYTEXT":
        changed = ["ALTER TABLE registered_model_aliases DROP PRIMARY KEY, MODIFY alias TINYTEXT"]
    with (
        mysql(statements=changed) as uri,
        connected(uri) as engine,
        pytest.raises(InvalidInput, match="does not know how"),
    ):
        Spellings(engine)


@pytest.mark.parametrize("column", ODD_POSTGRESQL)
def test_a_column_of_postgresql_that_is_not_understood_stops_the_server(column: str) -> None:
    if why := absent("postgresql"):
        pytest.skip(why)
    changed = [
        "CREATE EXTENSION IF NOT EXISTS citext",
        "CREATE DOMAIN named AS varchar(256)",
        f"ALTER TABLE registered_model_aliases ALTER alias TYPE {column}",
    ]
    with postgresql(statements=changed) as uri, connected(uri) as engine:
        not_understood(engine)


def test_another_database_is_not_understood() -> None:
    with pytest.raises(InvalidInput, match="a mssql database"):
        Spellings(cast(Engine, SimpleNamespace(dialect=SimpleNamespace(name="mssql"))))


@pytest.mark.parametrize("table", [one.table for one in NAMES])
def test_one_column_with_another_collation_counts(table: str) -> None:
    if why := absent("mysql"):
        pytest.skip(why)
    kinds = {one.table: "utf8mb4_unicode_ci" if one.table == table else "utf8mb4_bin" for one in NAMES}
    column = "VARCHAR(256) CHARACTER SET utf8mb4 COLLATE"
    bare = [f"CREATE TABLE {t} (name {column} {k}, alias {column} utf8mb4_bin)" for t, k in kinds.items()]
    changed = ["SET FOREIGN_KEY_CHECKS = 0", f"DROP TABLE {', '.join(kinds)}", *bare]
    with mysql("utf8mb4_bin", statements=changed) as uri, connected(uri) as engine:
        assert Spellings(engine).model(f"guar{SMALL_D_ABOVE}ed", [MODEL]) == MODEL
        assert Spellings(engine).alias(guarded_model(MODEL), "Production") is None


LENIENT = "sql_mode=NO_ENGINE_SUBSTITUTION"


def test_what_a_lenient_database_cuts_off_is_refused(tmp_path: Path) -> None:
    """Over a connection of three-byte characters, MariaDB ends a name where the first longer one stands."""
    if why := absent("mysql"):
        pytest.skip(why)
    with mysql("utf8mb3_general_ci") as uri, parts(tmp_path, f"{uri}?charset=utf8&{LENIENT}") as gate:
        gate.store.create_registered_model("innocent")
        for cut in (
            "unborn\U0001f600",
            "unborn\U0001f600 and more",
            "un\U0001f600born",
            "\U0001f600",
            "unborn\U00010000",
        ):
            for move in arrivals(gate.store):
                refused(move, cut)
        lenient = stock(f"{uri}?charset=utf8&{LENIENT}")
        lenient.create_registered_model("unborn\U0001f600")
        assert [one.name for one in stock(uri).search_registered_models()] != ["innocent"]


def test_what_a_column_would_replace_is_refused() -> None:
    if why := absent("mysql"):
        pytest.skip(why)
    with mysql("latin1_swedish_ci") as uri, connected(f"{uri}?{LENIENT}") as engine:
        spellings = Spellings(engine)
        assert spellings.model("WHAT?", ["what?"]) == "what?"
        assert spellings.model("pl\u00e4ne", ["what?"]) is None
        for name in ("what\u2603", "what\u0430", "what\uff1f", "wh\u0430t?", "\U0001f600"):
            with pytest.raises(EvidenceInvalid, match="cannot hold"):
                spellings.model(name, ["what?"])


def test_two_guarded_names_that_are_one_to_the_database_stop_the_server() -> None:
    if why := absent("mysql"):
        pytest.skip(why)
    trust = SimpleNamespace(models=[guarded_model(MODEL), guarded_model("other"), guarded_model("gvarded")])
    with mysql("utf8mb4_roman_ci") as uri, connected(uri) as engine:
        one_to_the_database(engine, trust)
    with mysql("utf8mb4_unicode_ci") as uri, connected(uri) as engine:
        Spellings(engine).require_distinct(cast(Any, trust))


def test_hundreds_of_guarded_names_are_compared() -> None:
    if why := absent("mysql"):
        pytest.skip(why)
    names = [f"model-{number}" for number in range(450)]
    with mysql("utf8mb4_unicode_ci") as uri, connected(uri) as engine:
        assert Spellings(engine).model("m\u00f6del-449", names) == "model-449"
        Spellings(engine).require_distinct(cast(Any, SimpleNamespace(models=[guarded_model(name) for name in names])))
