"""The guide's own programs verify what we sign, without guardrail, and notice a change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import head_of, history
from registry_bundles import sealed
from repository import ROOT
from stage_chains import chain
from trust_files import key, signed, trust

from guardrail.evidence.bundle import write
from guardrail.evidence.keys import key_pairs

GUIDE = ROOT / "docs" / "evidence.md"


@pytest.fixture
def programs(tmp_path: Path) -> list[Path]:
    found = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 2
    for index, text in enumerate(found):
        assert "import guardrail" not in text
        assert "from guardrail" not in text
        (tmp_path / f"check{index}.py").write_text(text, encoding="utf-8")
    return [tmp_path / f"check{index}.py" for index in range(len(found))]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)


def test_the_program_for_decisions_accepts_what_was_signed_and_nothing_else(
    tmp_path: Path, programs: list[Path]
) -> None:
    pair, folder = key_pairs.init(tmp_path / "keys"), tmp_path / "folder"
    folder.mkdir()
    write(sealed(tmp_path / "adapter", key_pairs.load_private(pair.private)), folder)
    done = run(programs[0], folder, pair.public)
    assert done.stdout.startswith("PASSED guarded production valid until ")
    (folder / "adapter_config.json").write_text("{}")
    assert run(programs[0], folder, pair.public).returncode != 0


def test_the_program_for_any_envelope_accepts_ours_and_no_changed_one(tmp_path: Path, programs: list[Path]) -> None:
    for name in ("ana", "ben", "evaluate", "server"):
        (tmp_path / name).write_text(key_pairs.public_pem(key(name).public_key))
    entries = history(3)

    def judged(lines: list[bytes], threshold: int, *names: str) -> str:
        (tmp_path / "lines").write_bytes(b"\n".join(lines))
        done = run(programs[1], tmp_path / "lines", threshold, *(tmp_path / name for name in names))
        return done.stdout if done.returncode == 0 else ""

    assert judged(entries, 1, "server").strip().endswith(head_of(entries).digest)
    assert judged([signed(trust())], 2, "ana", "ben").startswith(
        "1 envelopes of application/vnd.mlflow-guardrail.trust"
    )
    assert judged([chain()["evaluate"]], 1, "evaluate").startswith("1 envelopes of application/vnd.in-toto+json")
    assert not judged([entries[0], entries[2]], 1, "server")
    assert not judged([signed(trust(), "ana")], 2, "ana", "ben")
    assert not judged([chain()["evaluate"]], 1, "server")
