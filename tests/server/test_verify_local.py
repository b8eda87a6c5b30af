"""Verification of a local store: what lies on its disk and in its database may be changed by anyone; we notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_bundles import NOW, sealed

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.registry.mlflow.mlflow_client import client
from guardrail.registry.read.local_reader import LocalReader
from guardrail.registry.read.reader import parse_spec
from guardrail.registry.record.promote import promote
from guardrail.registry.verify.evidence_checks import examine
from guardrail.registry.verify.verify import Verification, verify, verify_with

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Promoted:
    """A store that holds ``guarded`` version 1, and what is needed to look at it."""

    uri: str
    key: PrivateKey
    public: Path
    files: Path
    client: MlflowClient

    def verify(self, spec: str = "guarded/1") -> Verification:
        """Over the store's open client, which is quick."""
        return verify_with(LocalReader(self.client), parse_spec(spec), [key_pairs.public_of(self.key)], NOW)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Promoted]:
    directory = tmp_path_factory.mktemp("local store")
    pair = key_pairs.init(directory / "keys")
    key, uri = key_pairs.load_private(pair.private), f"sqlite:///{directory / 'mlflow.db'}"
    record = promote(sealed(directory / "adapter", key), tracking_uri=uri, private_key=key, now=NOW)
    with client(uri, write=True) as opened:
        location = opened.get_logged_model(str(record.model_id)).artifact_location
        yield Promoted(uri, key, pair.public, Path(unquote(urlsplit(location).path)), opened)


def test_what_was_promoted_verifies_by_version_and_by_alias(promoted: Promoted) -> None:
    public = [key_pairs.load_public(promoted.public)]
    for spec in ("guarded/1", "guarded@production"):
        found = verify(spec, tracking_uri=promoted.uri, public_keys=public, now=NOW)
        assert (found.model, found.version, found.spec) == ("guarded", "1", spec)
        assert [check.name for check in found.checks][-4:] == ["validity", "target", "base", "tags"]


@settings(max_examples=40)
@given(data=st.data())
def test_changing_any_byte_on_the_disk_of_the_registry_is_refused(promoted: Promoted, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(path for path in promoted.files.rglob("*") if path.is_file())))
    original = name.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        name.write_bytes(changed)
        with pytest.raises(EvidenceInvalid):
            promoted.verify()
    finally:
        name.write_bytes(original)


@pytest.mark.parametrize("name", ["chat_template.jinja", "evidence/more.json", "a b", ".hidden"])
def test_a_file_that_was_added_is_refused(promoted: Promoted, name: str) -> None:
    added = promoted.files / name
    try:
        added.write_text("x")
        with pytest.raises(EvidenceInvalid):
            promoted.verify()
    finally:
        added.unlink()


def test_a_tag_that_was_changed_added_or_removed_is_refused(promoted: Promoted) -> None:
    tags = promoted.client.get_model_version("guarded", "1").tags
    for tag, value in (("guardrail.reasons", "all is well"), ("guardrail.approved_by", "the boss")):
        promoted.client.set_model_version_tag("guarded", "1", tag, value)
        with pytest.raises(EvidenceInvalid, match=tag):
            promoted.verify()
        promoted.client.delete_model_version_tag("guarded", "1", tag)
    with pytest.raises(EvidenceInvalid, match="missing"):
        promoted.verify()
    promoted.client.set_model_version_tag("guarded", "1", "guardrail.reasons", tags["guardrail.reasons"])
    promoted.client.set_model_version_tag("guarded", "1", "team", "ours")  # not ours to judge
    assert promoted.verify().version == "1"


def test_evidence_does_not_carry_over_to_another_name_alias_or_version(promoted: Promoted) -> None:
    version, opened = promoted.client.get_model_version("guarded", "1"), promoted.client
    opened.create_registered_model("another")
    opened.create_model_version("another", source=str(version.source), tags=version.tags)
    with pytest.raises(EvidenceInvalid, match="made for the model 'guarded'"):
        promoted.verify("another/1")
    opened.set_registered_model_alias("guarded", "staging", "1")
    with pytest.raises(EvidenceInvalid, match="made for the alias 'production'"):
        promoted.verify("guarded@staging")


def test_a_version_that_points_at_other_files_is_refused(promoted: Promoted) -> None:
    opened, version = promoted.client, promoted.client.get_model_version("guarded", "1")
    experiment = opened.get_experiment_by_name("guardrail")
    assert experiment is not None
    empty = opened.create_logged_model(experiment.experiment_id, name="empty")
    opened.finalize_logged_model(empty.model_id, "READY")
    tags = {key: value for key, value in version.tags.items() if key != "guardrail.evidence_sha256"}
    bad = opened.create_model_version("guarded", source=f"models:/{empty.model_id}", tags=tags)
    with pytest.raises(EvidenceInvalid, match=r"there is no evidence/"):
        promoted.verify(f"guarded/{bad.version}")
    opened.delete_model_version("guarded", bad.version)


def test_expired_evidence_and_another_base_are_refused(promoted: Promoted) -> None:
    public = [key_pairs.public_of(promoted.key)]
    check: Callable[..., Verification] = verify
    for now, base, message in (
        (NOW + timedelta(days=31), None, "expired"),
        (NOW - timedelta(days=1), None, "after now"),
        (NOW, "0" * 64, "evaluated on the base"),
    ):
        with pytest.raises(EvidenceInvalid, match=message):
            check("guarded/1", tracking_uri=promoted.uri, public_keys=public, now=now, base_digest=base)


@pytest.mark.parametrize("spec", ["guarded/99", "guarded@nobody", "absent/1", "guarded", "/1", "guarded/x", "a/b/1"])
def test_a_version_that_is_not_there_is_invalid_input(promoted: Promoted, spec: str) -> None:
    with pytest.raises(InvalidInput):
        verify(spec, tracking_uri=promoted.uri, public_keys=[key_pairs.public_of(promoted.key)], now=NOW)


def test_a_store_that_is_not_there_and_no_key_are_invalid_input(promoted: Promoted, tmp_path: Path) -> None:
    absent = tmp_path / "mlflow.db"
    with pytest.raises(InvalidInput):
        verify(
            "guarded/1", tracking_uri=f"sqlite:///{absent}", public_keys=[key_pairs.public_of(promoted.key)], now=NOW
        )
    assert not absent.exists()
    with pytest.raises(InvalidInput):
        verify("guarded/1", tracking_uri=promoted.uri, public_keys=[], now=NOW)


def test_the_downloaded_directory_verifies_without_the_registry(promoted: Promoted, tmp_path: Path) -> None:
    import mlflow

    folder = mlflow.artifacts.download_artifacts(
        artifact_uri="models:/guarded/1", dst_path=str(tmp_path), tracking_uri=promoted.uri
    )
    assert examine(Path(folder), [key_pairs.public_of(promoted.key)]).decision.model == "guarded"
