"""Where things of this repository lie, for tests and benchmarks. Not a test file."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELPERS = tuple(
    str(ROOT / "tests" / place)
    for place in ("", "helpers/attacks", "helpers/gates", "helpers/records", "helpers/servers")
)
"""What pytest puts on the path (``pythonpath`` in pyproject.toml), for processes that are not pytest's."""
CAMPAIGN = "GUARDRAIL_CAMPAIGN" in os.environ
"""Whether everything is tried (``make campaign``), where CI tries a slice."""
DATA = Path(os.environ.get("GUARDRAIL_SHARED_DATA") or ROOT.resolve().parent / "shared" / "data")
"""Published benchmarks, where there are any: they are never copied here."""
CASES = DATA.parent / "cases" / "data"
"""Small files of the forms that people have, where there are any: they are never copied here either."""
