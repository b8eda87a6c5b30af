"""What a client proposes is copied file by file; nothing is followed, nothing leaves the directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gated_servers import bytes_of
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from guardrail.errors import EvidenceInvalid
from guardrail.gate.proposed_files import RepositoryReader, logged_model
from guardrail.registry.read.reader import download


@pytest.fixture
def proposed(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "0" / "model"
    (folder / "evidence").mkdir(parents=True)
    (folder / "weights").write_bytes(b"weights")
    (folder / "evidence" / "policy.yaml").write_bytes(b"policy")
    return folder


def copied(proposed: Path, target: Path) -> Path:
    target.mkdir()
    repository = LocalArtifactRepository(str(proposed.parents[1]))
    download(RepositoryReader(repository, "0/model"), "", target)
    return target


def test_every_file_is_copied(proposed: Path, tmp_path: Path) -> None:
    assert bytes_of(copied(proposed, tmp_path / "copy")) == bytes_of(proposed)


def test_the_root_itself_may_be_proposed(proposed: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    download(RepositoryReader(LocalArtifactRepository(str(proposed)), ""), "", tmp_path / "copy")
    assert bytes_of(tmp_path / "copy") == bytes_of(proposed)


def test_a_symbolic_link_is_refused(proposed: Path, tmp_path: Path) -> None:
    (proposed / "link").symlink_to(proposed / "weights")
    with pytest.raises(EvidenceInvalid, match="link"):
        copied(proposed, tmp_path / "copy")


def test_a_special_file_is_refused(proposed: Path, tmp_path: Path) -> None:
    os.mkfifo(proposed / "pipe")
    with pytest.raises(EvidenceInvalid, match="special file"):
        copied(proposed, tmp_path / "copy")


def test_a_name_that_a_registry_may_change_is_refused(proposed: Path, tmp_path: Path) -> None:
    (proposed / "a b").write_bytes(b"")
    with pytest.raises(EvidenceInvalid, match="a b"):
        copied(proposed, tmp_path / "copy")


def test_more_bytes_than_are_left_are_refused(proposed: Path, tmp_path: Path) -> None:
    reader = RepositoryReader(LocalArtifactRepository(str(proposed)), "")
    with pytest.raises(EvidenceInvalid, match="larger"):
        reader.fetch("", "weights", tmp_path / "weights", 3)


@pytest.mark.parametrize("source", ["runs:/1/a", "s3://b/k", "models:/name/1", "/etc", "mlflow-artifacts:/0/x", ""])
def test_only_a_logged_model_can_be_proposed(source: str) -> None:
    with pytest.raises(EvidenceInvalid, match="logged model"):
        logged_model(source)
