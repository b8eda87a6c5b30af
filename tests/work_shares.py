"""How tests are shared out where several processes run them (``make test``).

What is tried on one cell of the matrix stays in one process, so the cell's servers start once; the other files are not
split, so what a file prepares is prepared once. pytest-xdist's own groups do nothing under pytest 9.2 (its issue 1386).
Not covered: tests that fight over the machine (none may depend on the clock).
"""

from __future__ import annotations

from typing import Any

import pytest
from matrix import MATRIX
from xdist.scheduler import LoadScopeScheduling


def share_of(nodeid: str) -> str:
    """The cell that a test is tried on, or its file."""
    file, _, test = nodeid.partition("::")
    parameters = test.partition("[")[2]
    return next((str(cell) for cell in MATRIX if parameters.startswith(str(cell))), file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One of several processes takes what is slow first, so that all end at about the same time."""
    if hasattr(config, "workerinput"):
        slow = {share_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: share_of(item.nodeid) not in slow)


class Shares(LoadScopeScheduling):  # type: ignore[misc]  # untyped
    """A process takes a cell or a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        """What pytest-xdist asks: tests with one answer stay together."""
        return share_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return Shares(config, log) if config.getvalue("dist") == "loadscope" else None
