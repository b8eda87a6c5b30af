"""Which cells of the matrix a run visits, and which attempts it shows on stock MLflow there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple
from itertools import combinations, product

import matrix
import pytest
from bypass_attempts import ATTEMPTS, BUCKET, REGISTRY
from matrix import ARTIFACTS, AUTHS, DATABASES, MATRIX, SERVERS, Cell, covering, is_new, visited, whole
from work_shares import share_of

PARTS = (DATABASES, SERVERS, AUTHS, ARTIFACTS)
Choose = Callable[..., None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Set the variables that choose cells, for this test only."""

    def clear() -> None:
        visited.cache_clear()
        whole.cache_clear()

    def put(**variables: str) -> None:
        for name in ("GUARDRAIL_CELLS", "GUARDRAIL_CAMPAIGN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        clear()

    put()
    yield put
    clear()


def test_every_two_values_meet_in_a_cell_that_ci_visits(choose: Choose) -> None:
    wanted = {
        (one, i, other, j)
        for (i, first), (j, second) in combinations(enumerate(PARTS), 2)
        for one, other in product(first, second)
    }
    met = {(c[i], i, c[j], j) for c in map(astuple, visited()) for i, j in combinations(range(len(PARTS)), 2)}
    assert met == wanted
    assert len(wanted) == 30


def test_no_fewer_cells_would_do(choose: Choose) -> None:
    assert len(visited()) == len(DATABASES) * len(SERVERS), "every database must meet every server"
    assert len(set(visited())) == len(visited())


def test_ci_runs_everything_in_the_first_cell_only(choose: Choose) -> None:
    assert visited()[0] == Cell() == Cell.named("sqlite-uvicorn-plain-local")
    assert whole() == (Cell(),)


def test_the_campaign_runs_everything_in_every_cell(choose: Choose) -> None:
    choose(GUARDRAIL_CAMPAIGN="1")
    assert visited() == whole() == MATRIX
    assert len(set(MATRIX)) == 24
    assert all(attempt.shown(cell) for attempt in ATTEMPTS for cell in MATRIX if attempt.real(cell))


def test_named_cells_run_everything(choose: Choose) -> None:
    choose(GUARDRAIL_CELLS="mysql-gunicorn-basic-auth,sqlite-uvicorn-plain-s3")
    assert visited() == whole() == (Cell("mysql", "gunicorn", "basic-auth"), Cell(artifacts="s3"))


def test_ci_shows_every_attempt_on_stock_mlflow(choose: Choose) -> None:
    assert [one.name for one in ATTEMPTS if not any(one.shown(cell) for cell in visited())] == []


def test_what_depends_on_the_artifacts_is_shown_for_both_kinds(choose: Choose) -> None:
    depending = [one for one in ATTEMPTS if "artifacts" in one.depends]
    assert len(depending) > 10
    for attempt in depending:
        assert {cell.artifacts for cell in visited() if attempt.shown(cell)} == set(ARTIFACTS)


def test_what_depends_on_nothing_is_shown_once(choose: Choose) -> None:
    once = [one for one in REGISTRY + BUCKET if not one.depends]
    assert {sum(one.shown(cell) for cell in visited()) for one in once} == {1}


def test_a_cell_is_new_where_one_of_the_values_is() -> None:
    cells = (Cell(), Cell(server="gunicorn"), Cell("mysql"), Cell("mysql", "gunicorn"))
    assert [is_new(cell, ("database",), cells) for cell in cells] == [True, False, True, False]
    assert [is_new(cell, ("database", "server"), cells) for cell in cells] == [True, True, True, False]
    assert [is_new(cell, (), cells) for cell in cells] == [True, False, False, False]


def test_a_covering_needs_as_many_cells_as_the_two_largest_parts_give() -> None:
    square = [Cell(database, server) for database in DATABASES for server in SERVERS]
    assert set(covering(square)) == set(square)


def test_a_database_that_does_not_answer_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"postgresql": "postgresql+psycopg2://postgres@127.0.0.1:9/postgres"}
    monkeypatch.setattr(matrix, "ADMIN", gone)
    matrix.absent.cache_clear()
    assert matrix.absent("postgresql").startswith("start PostgreSQL at 127.0.0.1:5432")
    assert matrix.absent("sqlite") == ""
    matrix.absent.cache_clear()


@pytest.mark.parametrize(
    ("test", "share"),
    [
        ("tests/server/test_a.py::test_x[mysql-gunicorn-plain-s3]", "mysql-gunicorn-plain-s3"),
        ("tests/server/test_b.py::test_y[mysql-gunicorn-plain-s3-alias: over REST]", "mysql-gunicorn-plain-s3"),
        ("tests/server/test_b.py::test_y[mysql]", "tests/server/test_b.py"),
        ("tests/unit/test_c.py::test_of_mysql-gunicorn-plain-s3", "tests/unit/test_c.py"),
    ],
)
def test_what_is_tried_on_one_cell_is_one_share_and_so_is_the_rest_of_a_file(test: str, share: str) -> None:
    assert share_of(test) == share
