"""docs/threat-model.md: what each actor can do names the test that shows it; what was tried is what the tests try."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from bypass_attempts import GROUPS
from repository import ROOT

PAGE = ROOT / "docs" / "threat-model.md"
BEGIN, END = "<!-- attempts:begin -->", "<!-- attempts:end -->"
REFERENCE = re.compile(r"`((?:unit|server|cli)/(?:\w+/)*test_\w+\.py)(?:::(\w+))?`")
SECTION = re.compile(r"^### (.+)$", re.MULTILINE)


def test_the_page_lists_every_attempt(golden: Callable[[Path, str], None]) -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    golden(PAGE, f"{before}{BEGIN}\n{''.join(_lists())}{END}{after}")


def test_every_test_that_the_page_names_is_there() -> None:
    named = REFERENCE.findall(PAGE.read_text(encoding="utf-8"))
    assert [f"{file}::{name}" for file, name in named if not _is_there(file, name)] == []


def test_every_row_about_an_actor_names_a_test() -> None:
    page = PAGE.read_text(encoding="utf-8")
    actors = page[page.index("## Who can do what") : page.index("## What was tried")]
    rows = [row for row in actors.splitlines() if row.startswith("| ") and not row.startswith(("| What", "|---"))]
    assert len(SECTION.findall(actors)) >= 7
    assert len(rows) >= 40
    assert [row for row in rows if not REFERENCE.search(row) and "not tested" not in row] == []


def _lists() -> Iterator[str]:
    for title, attempts in GROUPS.items():
        yield f"\n{title} ({len(attempts)}):\n\n"
        yield from (f"- {attempt.name}\n" for attempt in attempts)


def _is_there(file: str, name: str) -> bool:
    path = ROOT / "tests" / file
    return path.is_file() and (not name or name in _tests(path))


@cache
def _tests(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
