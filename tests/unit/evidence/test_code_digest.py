"""The digest of the package's code: every source file counts, whatever else lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guardrail.evidence.code_digest import PACKAGE, code_digest


def _package(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "sub" / "a.py").write_text("A = 1\n")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "sub" / "a.py").write_text("A = 2\n"),
        lambda folder: (folder / "plugin.py").write_text(""),
        lambda folder: (folder / "sub" / "a.py").rename(folder / "a.py"),
        lambda folder: (folder / "__init__.py").unlink(),
    ],
)
def test_a_source_that_was_changed_added_moved_or_removed_changes_the_digest(
    change: Callable[[Path], object], tmp_path: Path
) -> None:
    before, after = _package(tmp_path / "before"), _package(tmp_path / "after")
    assert code_digest(before) == code_digest(after)
    change(after)
    code_digest.cache_clear()
    assert code_digest(before) != code_digest(after)


def test_what_python_and_the_data_files_leave_beside_the_sources_does_not_count(tmp_path: Path) -> None:
    before, after = _package(tmp_path / "before"), _package(tmp_path / "after")
    (after / "__pycache__").mkdir()
    (after / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (after / "weights.bin").write_bytes(b"x")
    assert code_digest(before) == code_digest(after)


def test_sources_that_an_installer_linked_are_the_same_sources(tmp_path: Path) -> None:
    real, linked = _package(tmp_path / "real"), _package(tmp_path / "linked")
    (linked / "sub" / "a.py").unlink()
    (linked / "sub" / "a.py").symlink_to(real / "sub" / "a.py")
    assert code_digest(real) == code_digest(linked)


def test_it_is_read_once_for_a_process(tmp_path: Path) -> None:
    folder = _package(tmp_path / "package")
    first = code_digest(folder)
    (folder / "late.py").write_text("")
    assert code_digest(folder) == first


def test_it_covers_this_package() -> None:
    assert PACKAGE.name == "guardrail"
    assert (PACKAGE / "evidence" / "code_digest.py").is_file()
    assert len(code_digest()) == 64
