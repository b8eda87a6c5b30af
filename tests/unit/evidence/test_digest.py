"""Digests: canonical bytes, closed manifests, no links."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import canonical, digest, file_sha256, manifest, manifest_digest

JSON_NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(), JSON_NUMBERS | st.text(), max_size=5))
def test_the_order_of_keys_does_not_change_the_digest(data: dict[str, object]) -> None:
    try:
        expected = digest(data)
    except (EvidenceInvalid, UnicodeEncodeError):  # lone surrogates have no UTF-8 form
        return
    assert digest(dict(reversed(data.items()))) == expected


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2**53 + 1])
def test_a_number_that_canonical_json_cannot_hold_is_refused(number: float) -> None:
    with pytest.raises(EvidenceInvalid):
        canonical({"n": number})


def test_canonical_bytes_are_those_of_rfc_8785() -> None:
    assert canonical({"b": [1.0, 1e30, "é"], "a": None}) == '{"a":null,"b":[1,1e+30,"é"]}'.encode()


def test_a_manifest_lists_every_file_sorted_with_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"bb")
    (tmp_path / ".a").write_bytes(b"")
    found = manifest(tmp_path)
    assert [(entry.path, entry.size) for entry in found] == [(".a", 0), ("sub/b", 2)]
    assert found[1].sha256 == hashlib.sha256(b"bb").hexdigest() == file_sha256(tmp_path / "sub" / "b")


def test_renaming_adding_or_changing_a_file_changes_the_manifest_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    seen = {manifest_digest(manifest(tmp_path))}
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(manifest_digest(manifest(tmp_path)))
    (tmp_path / "c").write_bytes(b"")
    seen.add(manifest_digest(manifest(tmp_path)))
    (tmp_path / "b").write_bytes(b"2")
    assert len(seen | {manifest_digest(manifest(tmp_path))}) == 4


@pytest.mark.parametrize("target", ["a", "absent", "."])
def test_a_symbolic_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(EvidenceInvalid, match="symbolic link"):
        manifest(tmp_path)


def test_a_pipe_among_the_files_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EvidenceInvalid, match="special file"):
        manifest(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absent"):
        manifest(tmp_path, ["absent"])
