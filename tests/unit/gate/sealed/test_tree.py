"""Sealing: named by content, closed, one place for the same content, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrail.errors import EvidenceInvalid, ServiceUnavailable
from guardrail.gate.sealed.tree import STAGING, DiskTree, sealed_digest


def filled(place: Path, content: bytes = b"weights") -> Path:
    (place / "evidence").mkdir()
    (place / "evidence" / "policy.yaml").write_bytes(b"policy")
    (place / "weights").write_bytes(content)
    return place


@pytest.fixture
def tree(tmp_path: Path) -> DiskTree:
    return DiskTree(tmp_path / "sealed")


def keep(tree: DiskTree, content: bytes = b"weights") -> str:
    with tree.staging() as place:
        return tree.keep(filled(place, content))


def test_what_was_kept_is_there_read_only_and_nothing_else(tree: DiskTree) -> None:
    with tree.verified(keep(tree)) as place:
        pass
    assert (place / "weights").read_bytes() == b"weights"
    assert {path.stat().st_mode & 0o222 for path in (place, *place.rglob("*"))} == {0}
    assert [path.name for path in tree.root.iterdir()] == [place.name]


def test_the_same_content_is_one_place_and_other_content_another(tree: DiskTree) -> None:
    assert keep(tree) == keep(tree)
    assert keep(tree, b"other") != keep(tree)
    assert len(list(tree.root.iterdir())) == 2


@pytest.mark.parametrize("how", ["missing", "changed", "extra", "link", "gone"])
def test_a_place_that_was_touched_is_refused_also_to_seal_again(tree: DiskTree, how: str) -> None:
    digest = keep(tree)
    place = tree.root / digest
    place.chmod(0o755)
    (place / "weights").chmod(0o644)
    match how:
        case "missing":
            (place / "weights").unlink()
        case "changed":
            (place / "weights").write_bytes(b"Weights")
        case "extra":
            (place / "more").write_bytes(b"")
        case "link":
            (place / "more").symlink_to(place / "weights")
        case "gone":
            place.rename(tree.root / "elsewhere")
    with pytest.raises(EvidenceInvalid), tree.verified(digest):
        pass
    if how != "gone":
        with pytest.raises(EvidenceInvalid):
            keep(tree)


def test_a_block_that_fails_leaves_nothing_behind(tree: DiskTree) -> None:
    with pytest.raises(ZeroDivisionError), tree.staging() as place:
        filled(place).joinpath("more").write_bytes(b"x" * (1 // 0))
    assert list(tree.root.iterdir()) == []


def test_a_place_that_cannot_be_made_is_a_service_that_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ServiceUnavailable):
        DiskTree(tmp_path / "file" / "sealed")


def test_only_the_servers_own_location_is_sealed() -> None:
    digest = "ab" * 32
    assert sealed_digest(f"mlflow-artifacts:/sealed/{digest}") == digest
    for source in (
        f"mlflow-artifacts:/sealed/{digest}/x",
        f"mlflow-artifacts:/sealed/{digest.upper()}",
        "models:/m-1",
        f"mlflow-artifacts://host/sealed/{digest}",
        f"file:///sealed/{digest}",
        "",
    ):
        with pytest.raises(EvidenceInvalid):
            sealed_digest(source)


def test_what_a_killed_process_staged_is_removed_also_when_it_was_settled_already(tree: DiskTree) -> None:
    left, settled = tree.root / f"{STAGING}left", tree.root / f"{STAGING}settled"
    for place in (left, settled):
        place.mkdir()
        filled(place)
    for path in (*settled.rglob("*"), settled):
        path.chmod(0o555)
    digest = keep(tree)
    tree.sweep()
    assert [path.name for path in tree.root.iterdir()] == [digest]


def test_what_a_living_process_stages_stays(tree: DiskTree) -> None:
    with tree.staging() as place:
        filled(place)
        DiskTree(tree.root).sweep()
        with tree.verified(tree.keep(place)) as sealed:
            assert (sealed / "weights").read_bytes() == b"weights"
