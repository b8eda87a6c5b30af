"""The guide's own program verifies what we sign, without guardrail, and notices a change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from registry_bundles import sealed

from guardrail.evidence import keys
from guardrail.evidence.bundle import write

GUIDE = Path(__file__).parents[2] / "docs" / "evidence.md"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    found = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    assert "guardrail" not in found[0]
    (tmp_path / "check.py").write_text(found[0], encoding="utf-8")
    return tmp_path / "check.py"


def test_the_program_of_the_guide_accepts_what_was_signed_and_nothing_else(tmp_path: Path, program: Path) -> None:
    pair, folder = keys.init(tmp_path / "keys"), tmp_path / "folder"
    folder.mkdir()
    write(sealed(tmp_path / "adapter", keys.load_private(pair.private)), folder)
    command = [sys.executable, str(program), str(folder), str(pair.public)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PASSED guarded production valid until ")
    (folder / "adapter_config.json").write_text("{}")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
