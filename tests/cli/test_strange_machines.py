"""On machines without a home directory, or without UTF-8, commands work or say what is missing; none crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import write_policy, write_rows

pytestmark = pytest.mark.slow

HOMELESS = """\
import pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from guardrail.cli import main
main()
"""
"""As in a container whose user has a number only; the interpreter itself must still find its files."""
LACKING = {"ascii": "LC_ALL=C, PYTHONIOENCODING=ascii", "latin-1": "an old Western locale"}


def _run(
    where: Path, *args: str, program: str = "from guardrail.cli import main; main()", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    given = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", program, *args]
    return subprocess.run(command, cwd=where, env={**given, **environment}, capture_output=True, check=False)


def _in(encoding: str) -> dict[str, str]:
    return {"LC_ALL": "C", "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_data_is_validated_by_a_user_without_a_home_and_without_a_name(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    ended = _run(tmp_path, "data", "validate", str(rows), program=HOMELESS)
    assert (ended.returncode, b"30 rows" in ended.stdout) == (0, True), ended.stderr


@pytest.mark.parametrize("base", ["~/base", "~nobody-of-this-name/base"])
def test_a_path_in_a_home_that_nobody_knows_is_refused_with_the_path(tmp_path: Path, base: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    ended = _run(tmp_path, "data", "validate", str(rows), "--base", base, program=HOMELESS)
    assert ended.returncode == 2
    assert base.encode() in ended.stderr


@pytest.mark.parametrize("encoding", LACKING)
def test_what_an_encoding_lacks_is_printed_as_an_escape(tmp_path: Path, encoding: str) -> None:
    policy = write_policy(tmp_path)
    policy.write_text("# 測\n" + policy.read_text(encoding="utf-8"), encoding="utf-8")
    shown = _run(tmp_path, "policy", "show", str(policy), **_in(encoding))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(rb"# \u6e2c")
    policy.write_text("測: 1\n", encoding="utf-8")
    refused = _run(tmp_path, "policy", "check", str(policy), **_in(encoding))
    assert refused.returncode == 2
    assert rb"\u6e2c" in refused.stderr


@pytest.mark.parametrize("encoding", LACKING)
def test_json_stays_the_same_value_where_the_encoding_lacks_a_character(tmp_path: Path, encoding: str) -> None:
    program = r"""from guardrail.commands import _output as show; show.say_json('{"a": "\u00e9\u6e2c\U0001f600"}')"""
    printed = _run(tmp_path, program=program, **_in(encoding))
    assert json.loads(printed.stdout.decode(encoding)) == {"a": "é測😀"}, printed.stderr


@pytest.mark.parametrize("encoding", LACKING)
def test_a_table_is_printed_where_the_encoding_lacks_a_character(tmp_path: Path, encoding: str) -> None:
    program = """\
from rich.table import Table
from guardrail.commands import _output as show
show.escape_what_cannot_be_written()
table = Table("\\u6e2c\\u2026"); table.add_row(show.cell("\\u00e9\\u6e2c")); show.say_table(table)
"""
    printed = _run(tmp_path, program=program, **_in(encoding))
    assert printed.returncode == 0, printed.stderr
    assert rb"\u6e2c" in printed.stdout


def test_a_file_name_that_the_system_cannot_write_is_invalid_input(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    text = policy.read_text(encoding="utf-8").replace("harmful.jsonl", "測.jsonl")
    policy.write_text(text, encoding="utf-8")
    ended = _run(tmp_path, "policy", "check", str(policy), **_in("ascii"))
    assert (ended.returncode, b"PYTHONUTF8=1" in ended.stderr) == (2, True), ended.stderr
