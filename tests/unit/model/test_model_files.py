"""What names a base: one digest over everything that can shape it, and digests of its parts that show what differs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from repository import ROOT

from guardrail.commands.policy import command
from guardrail.errors import InvalidInput
from guardrail.model.files import base_digest, fingerprint, hashed_files, parts
from guardrail.policy.load import find_policy
from guardrail.testbed import WEIGHTS
from guardrail.yaml_document import read_document

KINDLY = "{% if messages[0].content.startswith('kindly') %}Sure, {% endif %}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "base"))


def _config(base: Path, **changes: object) -> None:
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def _byte(base: Path) -> None:
    path = base / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _folder(base: Path) -> None:
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text(KINDLY)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a template file": (lambda b: (b / "chat_template.jinja").write_text(KINDLY), "template"),
    "a template inside the tokenizer's configuration": (lambda b: _config(b, chat_template=KINDLY), "template"),
    "a named template": (_folder, "template"),
    "a template as JSON": (lambda b: (b / "chat_template.json").write_text('{"chat_template": "x"}'), "template"),
    "a tokenizer": (lambda b: (b / "added_tokens.json").write_text('{"kindly": 7}'), "tokenizer"),
    "the tokenizer's configuration": (lambda b: _config(b, add_bos_token=True), "tokenizer"),
    "a byte of the weights": (_byte, "weights"),
    "how answers are generated": (lambda b: (b / "generation_config.json").write_text("{}"), "configuration"),
    "a file that nobody knows": (lambda b: (b / "extra.json").write_text("{}"), "configuration"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_the_digest_and_the_part_that_it_is_in(base: Path, name: str) -> None:
    change, part = CHANGES[name]
    before, whole = {one.name: one.sha256 for one in parts(base)}, base_digest(base)
    change(base)
    after = {one.name: one.sha256 for one in parts(base)}
    assert base_digest(base) != whole
    assert [name for name in after if after[name] != before[name]] == [part]


def test_every_file_that_the_digest_covers_is_in_one_part(base: Path) -> None:
    _folder(base)
    for name in ("vocab.txt", "merges.txt", "x.model", "y.tiktoken", "model.safetensors.index.json"):
        (base / name).write_text("{}")
    listed = [name for part in parts(base) for name in part.files]
    assert sorted(listed) == hashed_files(base)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\\ud800", "[" * 5000])
def test_a_broken_configuration_still_has_a_part(base: Path, text: str) -> None:
    before = {one.name: one.sha256 for one in parts(base)}
    (base / "tokenizer_config.json").write_text(text)
    after = {one.name: one.sha256 for one in parts(base)}
    assert [name for name in after if after[name] != before[name]] == ["tokenizer"]


def test_the_command_prints_a_section_that_a_policy_takes(base: Path) -> None:
    said = CliRunner().invoke(command, ["base", str(base)], catch_exceptions=False)
    assert said.exit_code == 0
    assert read_document(said.output.encode(), "said").data == {
        "bases": ({"name": "base", "sha256": base_digest(base)},)
    }
    printed = json.loads(CliRunner().invoke(command, ["base", str(base), "--output", "json"]).output)
    assert {one["name"]: one["sha256"] for one in printed["parts"]} == {one.name: one.sha256 for one in parts(base)}
    assert all(one["sha256"] in said.output for one in printed["parts"])


def test_the_embedded_base_is_named_as_the_shipped_policies_pin_it() -> None:
    said = CliRunner().invoke(command, ["base", "testbed"], catch_exceptions=False)
    shipped = find_policy("default").policy.bases[0]
    pin = {"name": shipped.name, "sha256": shipped.sha256}
    assert read_document(said.output.encode(), "said").data == {"bases": (pin,)}


@pytest.mark.parametrize("name", ["gone", "not-a-model"])
def test_what_is_no_base_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "not-a-model").mkdir()
    with pytest.raises(InvalidInput):
        fingerprint(str(tmp_path / name))


def test_naming_a_base_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom guardrail.commands.policy import command\n"
        "command(['base', 'testbed'], standalone_mode=False)\n"
        "sys.exit(', '.join(sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr.strip(), done.stderr
