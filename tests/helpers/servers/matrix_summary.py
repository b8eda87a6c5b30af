"""What a run did in each cell of the matrix, at the end of pytest's output; no summary where no cell was asked for.

Not covered: which attempts there are (``bypass_attempts.py``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from matrix import MATRIX

REFUSED, REAL = "test_the_gated_server_refuses[", "test_stock_mlflow_lets_it_happen["
HEADER = ("cell", "attempts refused", "real on stock", "promotions", "tests passed", "not", "seconds")
PROMOTIONS = pytest.StashKey[dict[str, int]]()


@dataclass
class Told:
    """What the reports of one cell add up to."""

    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)


def promotions(config: pytest.Config) -> dict[str, int]:
    """Cell to the promotions in its ledger when its server ended."""
    return config.stash.setdefault(PROMOTIONS, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands over what it counted."""
    if output := getattr(session.config, "workeroutput", None):
        output["promotions"] = promotions(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes ended: pytest-xdist's hook."""
    promotions(node.config).update(getattr(node, "workeroutput", {}).get("promotions", {}))


def pytest_itemcollected(item: pytest.Item) -> None:
    """The reports say which cell they are of."""
    if cell := _param(item, "pair"):
        item.user_properties.append(("cell", str(cell)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each cell."""
    reports = [
        one for kind in ("passed", "failed", "error", "skipped", "") for one in terminalreporter.getreports(kind)
    ]
    found = _told(report for report in reports if isinstance(report, pytest.TestReport))
    if not found:
        return
    visited = promotions(config)
    terminalreporter.section(f"{len(visited)} of the matrix's {len(MATRIX)} cells visited")
    rows = [HEADER, *(_row(cell, told, visited.get(cell)) for cell, told in found.items())]
    for row in rows:
        terminalreporter.write_line("| " + " | ".join(row) + " |")


def _told(reports: Iterator[pytest.TestReport]) -> dict[str, Told]:
    found: dict[str, Told] = defaultdict(Told)
    for report in reports:
        for name, cell in report.user_properties:
            if name == "cell":
                _add(found[str(cell)], report)
    return dict(found)


def _add(told: Told, report: pytest.TestReport) -> None:
    told.seconds += report.duration
    if report.when == "call" or not report.passed:
        told.counts["passed" if report.passed else "not"] += 1
    if report.when == "call" and report.passed:
        told.counts[REFUSED] += REFUSED in report.nodeid
        told.counts[REAL] += REAL in report.nodeid


def _row(cell: str, told: Told, promoted: int | None) -> tuple[str, ...]:
    counts = told.counts
    numbers = (counts[REFUSED], counts[REAL], "-" if promoted is None else promoted, counts["passed"], counts["not"])
    return (cell, *map(str, numbers), f"{told.seconds:.0f}")


def _param(item: pytest.Item, name: str) -> object:
    return item.callspec.params.get(name) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
