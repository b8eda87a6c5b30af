"""What every test may use: ``--regenerate-golden`` rewrites stored expectations instead of comparing with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from repository import CAMPAIGN

pytest_plugins = ["mlflow_server", "gate_fixtures", "matrix_summary", "work_shares"]

# Neither chance nor the clock decides: each run tries the same examples, however slow the machine; a campaign tries
# new ones.
settings.register_profile("guardrail", deadline=None, derandomize=not CAMPAIGN)
settings.load_profile("guardrail")

Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="rewrite golden files from what the code makes")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """``golden(path, text)`` fails unless the file holds exactly ``text`` (or writes it, under the option)."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--regenerate-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest with --regenerate-golden and review the change"
        assert path.read_text(encoding="utf-8") == text, f"{path} differs: review, then --regenerate-golden"

    return compare
