"""A gated server that is killed at any step leaves a registry that is right, starts again, and goes on where it was.

A sample of the steps on SQLite; ``GUARDRAIL_CAMPAIGN=1``: every step on SQLite, PostgreSQL and MariaDB.
Not covered: machines that lose their power, and several servers on several machines.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from copied_databases import copied
from gated_servers import database, people
from kill_work import WORKS, begun, prepare, summary
from killed_servers import Place, Served, Step, killed, steps, told
from matrix import DATABASES, Cell
from repository import CAMPAIGN, HELPERS

pytestmark = pytest.mark.slow
PENDING, DONE = "rename ledger/ledger.pending", "remove ledger/ledger.pending"
LINE, HEAD = "fsync ledger/ledger", "rename ledger/ledger.head"
ALIAS, VERSION = "commit registered_model_aliases", "commit model_version_tags"
TORN = "the ledger's line torn"
SAMPLE: dict[str, dict[str, Step | None]] = {
    "promotion": {
        "the candidate half fetched": Step("mkdir artifacts/sealed/.staging-*/evidence", 4),
        "the candidate settled": Step("rename artifacts/sealed/*"),
        "the candidate sealed": Step(PENDING),
        "the decision pending": Step("fsync ledger"),
        "the decision in the ledger": Step(HEAD),
        "the decision's head exported": Step(DONE),
        "the decision written": Step(VERSION),
        "the version committed": Step(PENDING, 2),
        "the promotion pending": Step("fsync ledger", 3),
        "the promotion in the ledger": Step(HEAD, 2),
        "the promotion's head exported": Step(DONE, 2),
        "the promotion written": Step(ALIAS),
        "the alias committed": None,
        TORN: Step(LINE, 2),
    },
    "rollback": {
        "the order kept": Step(PENDING),
        "the rollback pending": Step("fsync ledger"),
        "the rollback in the ledger": Step(HEAD),
        "the rollback written": Step(ALIAS),
        TORN: Step(LINE),
    },
    "last_approval": {
        "the approval in the ledger": Step(HEAD),
        "the approval written": Step(VERSION),
        "the version committed": Step(PENDING, 2),
        "the promotion written": Step(ALIAS),
    },
    "revocation": {"the revocation pending": Step("fsync ledger")},
    "binding": {"the attempt pending": Step("fsync ledger")},
    "denial": {"the denial pending": Step("fsync ledger")},
}


@dataclass(frozen=True)
class Prepared:
    """A registry in which every work is the next thing to do; it is copied, never used."""

    place: Place
    kind: str

    @contextmanager
    def copy(self, directory: Path) -> Iterator[Place]:
        """One to break."""
        shutil.copytree(self.place.directory, directory)
        with copied(self.place.database, directory) as uri:
            yield replace(self.place, directory=directory, database=uri)


@pytest.fixture(scope="module", params=DATABASES if CAMPAIGN else DATABASES[:1])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([*HELPERS, os.environ.get("PYTHONPATH", "")]))
        folder = tmp_path_factory.mktemp("kills")
        people(folder / "people")
        (folder / "prepared").mkdir()
        uri = stack.enter_context(database(folder / "prepared", Cell(database=request.param)))
        place = Place(folder / "prepared", uri, folder / "people")
        told(prepare, place)
        yield Prepared(place, request.param)


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared) -> Any:
    """Work to what it does, step by step, and what it leaves, where nobody dies."""

    @cache
    def run(work: str) -> tuple[list[Step], Any]:
        with prepared.copy(prepared.place.directory.with_name(f"undisturbed-{work}")) as place:
            return steps(WORKS[work], place), told(summary, place)

    return run


def _outcome(work: str, fresh: bool, running: Served) -> dict[str, Any]:
    """What a server finds that has just started, and what doing the work again makes of it."""
    wrong = begun(running) if fresh else []
    said = WORKS[work](running)
    return {"wrong": wrong, "said": said, **summary(running)}


def _check(
    prepared: Prepared, undisturbed: Any, work: str, step: Step | None, name: str, *, survivor: bool = False
) -> None:
    """Kill a server there; a fresh one, or (``survivor``) another worker that was there before, goes on."""
    known, expected = undisturbed(work)
    assert step is None or step in known, f"{step} does not happen; what does: {', '.join(map(str, known))}"
    with prepared.copy(prepared.place.directory.with_name(f"killed-{name}")) as place:

        def kill() -> None:
            code = killed(WORKS[work], place, step, tear=name.endswith("-torn"))
            assert code == -signal.SIGKILL, (place.directory / "steps.error").read_text()

        if not survivor:
            kill()
        found = told(partial(_outcome, work, not survivor), place, kill if survivor else None)
    assert found["wrong"] == []
    assert {key: found[key] for key in expected if key != "left" or not survivor} == {
        key: value for key, value in expected.items() if key != "left" or not survivor
    }
    assert found["problems"] == []


@pytest.mark.skipif(CAMPAIGN, reason="the campaign takes every step")
@pytest.mark.parametrize(("work", "when"), [(work, when) for work, found in SAMPLE.items() for when in found])
def test_a_server_that_is_killed_starts_again_and_the_work_is_finished_by_asking_again(
    prepared: Prepared, undisturbed: Any, work: str, when: str
) -> None:
    name = f"{work}-{list(SAMPLE[work]).index(when)}" + ("-torn" if when == TORN else "")
    _check(prepared, undisturbed, work, SAMPLE[work][when], name)


@pytest.mark.parametrize(
    ("work", "step"),
    [
        ("promotion", Step("fsync ledger")),
        ("promotion", Step(HEAD, 2)),
        ("rollback", Step("fsync ledger")),
        ("last_approval", Step("fsync ledger", 3)),
        ("binding", Step("fsync ledger")),
    ],
    ids=str,
)
def test_another_worker_goes_on_where_one_was_killed(
    prepared: Prepared, undisturbed: Any, work: str, step: Step
) -> None:
    _check(prepared, undisturbed, work, step, f"{work}-survived-{step.occurrence}", survivor=True)


@pytest.mark.skipif(not CAMPAIGN, reason="every step: in the campaign")
@pytest.mark.parametrize("work", list(WORKS))
def test_whichever_step_a_server_dies_at_nothing_is_lost_doubled_or_unproven(
    prepared: Prepared, undisturbed: Any, work: str
) -> None:
    known: list[Step | None] = [*undisturbed(work)[0], None]
    wrong: dict[str, str] = {}
    for index, step in enumerate(known):
        for tear in (False, True) if step is not None and step.what == LINE else (False,):
            name = f"{work}-{index}" + ("-torn" if tear else "")
            try:
                _check(prepared, undisturbed, work, step, name)
            except AssertionError as error:
                wrong[f"{name} before {step}"] = str(error)[:2000]
    assert wrong == {}
    assert len(known) > 12
