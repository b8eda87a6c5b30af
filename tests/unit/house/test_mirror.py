"""Tests lie where the code lies, and every plug-in has a test and a word in the documentation (CONTRIBUTING.md)."""

from __future__ import annotations

import re
from functools import cache

import pytest
from repository import ROOT

from guardrail import plugins

UNIT = ROOT / "tests" / "unit"
OF_NO_MODULE = {"house", "docs"}
"""Folders about what lies at the package's root, and about the documentation."""
FAMILIES = {
    "guardrail.data.detectors": ("data", "data.md"),
    "guardrail.evaluate.attacks": ("evaluate", "suites.md"),
    "guardrail.evaluate.judges": ("evaluate", "suites.md"),
    "guardrail.evaluate.suites": ("evaluate", "suites.md"),
    "guardrail.evaluate.tasks": ("evaluate", "suites.md"),
    "guardrail.policy.rules": ("policy", "policy.md"),
    "guardrail.train.methods": ("train", "methods.md"),
}
"""Where a family's tests lie, and the page that tells of it."""
PLUGINS = [(family, name) for family in FAMILIES for name in plugins.names(family)]


@cache
def text_of_tests(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((UNIT / folder).rglob("test_*.py")))


@pytest.mark.parametrize(("family", "name"), PLUGINS)
def test_every_plug_in_is_named_by_a_test_of_its_folder_and_on_its_page(family: str, name: str) -> None:
    folder, page = FAMILIES[family]
    assert re.search(rf"\b{name}\b", text_of_tests(folder))
    assert re.search(rf"\b{name}\b", (ROOT / "docs" / page).read_text(encoding="utf-8"))


def test_every_folder_of_tests_is_one_of_the_code() -> None:
    folders = {path.parent.relative_to(UNIT) for path in UNIT.rglob("test_*.py")}
    assert [
        str(one) for one in folders if one.parts[0] not in OF_NO_MODULE and not (ROOT / "guardrail" / one).is_dir()
    ] == []


def test_what_tests_share_lies_among_the_helpers() -> None:
    tests = ROOT / "tests"
    assert {path.name for path in tests.glob("*.py")} == {"conftest.py", "repository.py", "work_shares.py"}
    assert list((tests / "helpers").rglob("test_*.py")) == []


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_folder_but_those_of_plug_ins_and_commands_holds_more_than_sixteen_files() -> None:
    """What CONTRIBUTING asks: beyond that a folder wants wings."""
    package = ROOT / "guardrail"
    counts = {path.parent for path in package.rglob("*.py")}
    large = {str(folder.relative_to(package)) for folder in counts if len(list(folder.glob("*.py"))) > 16}
    assert large <= {".", "commands", "train", "train/methods"}
