"""``guardrail policy check`` and ``guardrail policy show``, and what they load."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from policy_evidence import POLICIES
from repository import ROOT
from tiny_models import POLICY, write_policy

from guardrail.commands.policy import command
from guardrail.errors import InvalidInput
from guardrail.policy.load import find_policy

HEAVY = {"torch", "transformers", "peft", "mlflow", "great_expectations", "pandas"}


def invoke(*args: str) -> Result:
    return CliRunner().invoke(command, args)


def test_check_says_what_will_be_measured_and_from_which_n_it_is_provable() -> None:
    result = invoke("check", "default")
    assert result.exit_code == 0, result.output
    assert "attack_success_rate on harmful under prefill judged by refusal" in result.output
    assert "(provable from n = 59)" in result.output
    assert find_policy("default").digest in result.output


def test_check_prints_json() -> None:
    printed = json.loads(invoke("check", "strict", "--output", "json").output)
    assert printed["policy"] == "strict"
    assert {"sli": "coherence", "suite": "benign", "attack": "direct", "judge": "coherence"} in printed["measures"]


def test_check_refuses_a_promise_that_its_sample_size_can_never_show(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text((POLICIES / "default.yaml").read_text().replace("min_n: 300", "min_n: 20"))
    result = invoke("check", str(file))
    assert isinstance(result.exception, InvalidInput)
    assert result.exception.exit_code == 2
    assert "it needs at least 59" in result.exception.message()


def test_check_refuses_a_policy_that_asks_for_more_items_than_there_are(tmp_path: Path) -> None:
    result = invoke("check", str(write_policy(tmp_path, POLICY.replace("min_n: 12", "min_n: 13"))))
    assert isinstance(result.exception, InvalidInput)
    assert result.exception.got.count("min_n: 13, but the suite 'harmful' has 12 items") == 2


def test_check_refuses_anchors_that_are_not_there(tmp_path: Path) -> None:
    result = invoke("check", str(write_policy(tmp_path, POLICY.replace("data: {", "data: {anchors: gone.jsonl, "))))
    assert isinstance(result.exception, InvalidInput)
    assert "gone.jsonl" in result.exception.got


def test_check_prints_the_digest_to_pin_and_then_finds_it_pinned(tmp_path: Path) -> None:
    file = write_policy(tmp_path)
    (tmp_path / "sums.jsonl").unlink()
    first = invoke("check", str(file))
    assert first.exit_code == 0, first.output
    found = re.findall(r"- (\S+): sha256 ([0-9a-f]{64}), not pinned", first.output)
    assert [place for place, _ in found] == ["suites.harmful", "suites.benign"]
    assert "- tasks.sums: cannot be read here: " in first.output
    assert "is well formed, but 1 of its suites and tasks cannot be read here" in first.output
    file.write_text(POLICY.replace("path: harmful.jsonl", f"path: harmful.jsonl, sha256: '{found[0][1]}'"))
    assert f"- suites.harmful: sha256 {found[0][1]}, as pinned" in invoke("check", str(file)).output


@pytest.mark.parametrize("output", ["text", "json"])
def test_check_tells_of_other_contents_than_those_pinned_and_refuses_them(tmp_path: Path, output: str) -> None:
    pin = "ab" * 32
    file = write_policy(tmp_path, POLICY.replace("path: benign.csv", f"path: benign.csv, sha256: '{pin}'"))
    result = invoke("check", str(file), "--output", output)
    assert isinstance(result.exception, InvalidInput)
    assert f"suites.benign pins {pin}, but holds " in result.exception.got
    if output == "json":
        contents = {one["place"]: one for one in json.loads(result.output)["contents"]}
        assert contents["suites.benign"]["pinned"] == pin
        assert contents["suites.harmful"]["pinned"] is None
    else:
        assert f"OTHER than pinned: {pin}" in result.output


def test_check_of_a_suite_that_is_withheld_from_here_is_no_error(tmp_path: Path) -> None:
    pin = f"sha256: '{'ab' * 32}', withheld: true"
    file = write_policy(tmp_path, POLICY.replace("path: harmful.jsonl", f"path: kept.jsonl, {pin}"))
    result = invoke("check", str(file))
    assert result.exit_code == 0, result.output
    assert f"- suites.harmful: withheld, pinned: {'ab' * 32}; cannot be read here: " in result.output


@pytest.mark.parametrize("name", ["default", "strict", "unfiltered"])
def test_show_prints_the_very_bytes(name: str) -> None:
    assert invoke("show", name).stdout_bytes == (POLICIES / f"{name}.yaml").read_bytes()


def test_checking_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom guardrail.commands.policy import command\n"
        "command(['check', 'default'], standalone_mode=False)\n"
        f"sys.exit(', '.join(sorted({HEAVY!r} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not done.stderr.strip(), done.stderr


def test_importing_the_command_loads_neither_pydantic_nor_yaml() -> None:
    code = (
        "import sys\nimport guardrail.commands.policy\n"
        "sys.exit(', '.join(sorted({'pydantic', 'ruamel', 'scipy'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr.strip(), done.stderr
