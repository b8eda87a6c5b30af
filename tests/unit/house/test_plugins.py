"""Plug-ins are files: listing imports none of them, loading imports one, a wrong name says which is meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from guardrail import plugins
from guardrail.errors import InvalidInput

FAMILIES = (
    "guardrail.data.detectors",
    "guardrail.evaluate.attacks",
    "guardrail.evaluate.judges",
    "guardrail.evaluate.suites",
    "guardrail.evaluate.tasks",
    "guardrail.policy.rules",
    "guardrail.train.methods",
)


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "planted_family"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text("ANSWER = 42\n")
    (package / "broken.py").write_text("raise RuntimeError('imported')\n")
    (package / "_helper.py").write_text("")
    (package / "notes.txt").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package.name


def test_the_names_are_those_of_the_files_without_helpers(family: str) -> None:
    assert plugins.names(family) == ("broken", "good")


def test_loading_imports_the_one_that_was_asked_for(family: str) -> None:
    assert plugins.load(family, "good").ANSWER == 42
    assert f"{family}.broken" not in sys.modules


def test_an_unknown_name_says_what_there_is_and_what_is_meant(family: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plugins.load(family, "goood")
    assert caught.value.expected == "one of broken, good"
    assert caught.value.next_step == "did you mean 'good'?"


@pytest.mark.parametrize("name", ["_helper", "", "good.ANSWER", "../good", "notes"])
def test_what_is_not_a_plug_in_is_never_imported(family: str, name: str) -> None:
    with pytest.raises(InvalidInput):
        plugins.load(family, name)


@pytest.mark.parametrize("package", ["guardrail.nowhere", "guardrail.errors"])
def test_what_is_not_a_package_is_refused(package: str) -> None:
    with pytest.raises(InvalidInput):
        plugins.names(package)


def test_nothing_close_gives_no_suggestion() -> None:
    assert plugins.suggestion("xyz", ("finetune", "der")) == ""
    assert plugins.suggestion("fine_tune", ("finetune", "der")) == "did you mean 'finetune'?"


def test_every_family_has_members_and_listing_them_loads_nothing_heavy() -> None:
    code = (
        f"import sys\nfrom guardrail import plugins\nassert all(plugins.names(f) for f in {FAMILIES!r})\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'great_expectations', 'scipy', 'datasketch'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_shipped_methods_are_those_that_the_documentation_names() -> None:
    assert set(plugins.names("guardrail.train.methods")) >= {"finetune", "replay", "der", "wise_ft"}
