"""Sealing in S3-compatible storage, over real HTTP: content, boundary, candidates, and what stops a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from gated_servers import bytes_of
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import ArtifactRepositoryRegistry
from mlflow.store.artifact.b2_artifact_repo import B2ArtifactRepository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.r2_artifact_repo import R2ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from moto.s3.models import s3_backends
from moto_servers import S3, s3_server, using

from guardrail.errors import EvidenceInvalid, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.gate import settings
from guardrail.gate.app.launch import Launch, check
from guardrail.gate.proposed_files import RepositoryReader
from guardrail.gate.sealed.boundary_disk import JUDGED, READS, THROUGH_JUDGED, Boundary, install
from guardrail.gate.sealed.boundary_s3 import BucketBoundary
from guardrail.gate.sealed.bucket_objects import Store
from guardrail.gate.sealed.guarded_repository import Judging
from guardrail.gate.sealed.sealed_storage import sealing
from guardrail.gate.sealed.tree_s3 import BucketTree, workplace
from guardrail.gate.settings import S3Bucket, destination
from guardrail.registry.read.reader import download

pytestmark = pytest.mark.slow
PLACE = S3Bucket("models", "ml/flow")
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server, using(server):
        yield server


@pytest.fixture
def tree(s3: S3, tmp_path: Path) -> Iterator[BucketTree]:
    """A tree in an empty bucket."""
    s3.make(PLACE.bucket)
    yield BucketTree(PLACE, tmp_path / "work")
    client = s3.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=PLACE.bucket):
        if found := [{"Key": entry["Key"]} for entry in page.get("Contents", ())]:
            client.delete_objects(Bucket=PLACE.bucket, Delete={"Objects": found})


def filled(place: Path, content: bytes = b"weights") -> Path:
    (place / "evidence").mkdir()
    (place / "evidence" / "policy.yaml").write_bytes(b"policy")
    (place / "weights").write_bytes(content)
    return place


def keep(tree: BucketTree, content: bytes = b"weights") -> str:
    with tree.staging() as place:
        return tree.keep(filled(place, content))


def key(digest: str, name: str) -> str:
    return f"{PLACE.sealed}/{digest}/{name}"


def test_what_was_kept_is_named_by_its_content_and_read_from_a_copy(s3: S3, tree: BucketTree) -> None:
    digest = keep(tree)
    with tree.verified(digest) as place:
        assert manifest_digest(manifest(place)) == digest
        assert bytes_of(place) == s3.objects(PLACE.bucket, f"{PLACE.sealed}/{digest}")
    assert not place.exists()
    assert [path.name for path in tree.root.iterdir()] == []


def test_the_same_content_is_one_place_and_other_content_another(s3: S3, tree: BucketTree) -> None:
    assert keep(tree) == keep(tree)
    assert keep(tree, b"other") != keep(tree)
    assert len(s3.objects(PLACE.bucket, PLACE.sealed)) == 4


@pytest.mark.parametrize("lost", ["weights", "evidence/policy.yaml"])
def test_an_interrupted_copy_is_refused_until_the_same_content_completes_it(
    s3: S3, tree: BucketTree, lost: str
) -> None:
    digest = keep(tree)
    s3.client().delete_object(Bucket=PLACE.bucket, Key=key(digest, lost))
    with pytest.raises(EvidenceInvalid, match="sealed adapter"), tree.verified(digest):
        pass
    assert keep(tree) == digest
    with tree.verified(digest):
        pass


def test_a_copy_that_storage_cut_off_leaves_what_can_be_completed(
    s3: S3, tree: BucketTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store.put

    def cut(self: Store, source: Path, digest: str, name: str) -> None:
        if name == "weights":
            raise ServiceUnavailable("gone")
        whole(self, source, digest, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", cut)
        with pytest.raises(ServiceUnavailable):
            keep(tree)
    assert len(s3.objects(PLACE.bucket, PLACE.sealed)) == 1
    with tree.verified(keep(tree)):
        pass


@pytest.mark.parametrize("name", ["more", "evidence/more", "weights/more", "evidence/", "/weights", "../x", ".hidden"])
def test_anything_extra_is_refused_also_to_seal_again(s3: S3, tree: BucketTree, name: str) -> None:
    digest = keep(tree)
    s3.client().put_object(Bucket=PLACE.bucket, Key=key(digest, "") + name, Body=b"")
    with pytest.raises(EvidenceInvalid, match="sealed adapter"), tree.verified(digest):
        pass
    with pytest.raises(EvidenceInvalid, match="sealed adapter"):
        keep(tree)


def test_a_changed_byte_is_refused_also_to_seal_again(s3: S3, tree: BucketTree) -> None:
    digest = keep(tree)
    s3.client().put_object(Bucket=PLACE.bucket, Key=key(digest, "weights"), Body=b"Weights")
    with pytest.raises(EvidenceInvalid), tree.verified(digest):
        pass
    with pytest.raises(EvidenceInvalid):
        keep(tree)


def test_what_was_never_sealed_is_not_there(tree: BucketTree) -> None:
    with pytest.raises(EvidenceInvalid, match="not there"), tree.verified(DIGEST):
        pass


def test_an_extra_object_beyond_the_first_page_of_the_listing_is_found(s3: S3, tree: BucketTree) -> None:
    digest, client = keep(tree), s3.client()
    for number in range(1001):  # the server's memory is this process's, and a thousand requests take eight seconds
        s3_backends["123456789012"]["aws"].put_object(PLACE.bucket, key(digest, f"a{number:04}"), b"")
    assert len(client.list_objects_v2(Bucket=PLACE.bucket, Prefix=key(digest, ""))["Contents"]) == 1000
    assert len(Store(PLACE).names(digest)) == 1003


def test_storage_that_does_not_answer_is_unavailable(s3: S3, tree: BucketTree, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = keep(tree)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ServiceUnavailable, match="MLFLOW_S3_ENDPOINT_URL"), tree.verified(digest):
        pass
    with pytest.raises(ServiceUnavailable, match="MLFLOW_S3_ENDPOINT_URL"):
        Store(PLACE).require_usable()


def test_a_bucket_that_works_is_left_as_it_was(s3: S3, tree: BucketTree) -> None:
    Store(PLACE).require_usable()
    assert s3.objects(PLACE.bucket, PLACE.prefix) == {}


def test_a_bucket_that_is_not_there_stops_the_server_and_says_what_to_set(s3: S3) -> None:
    with pytest.raises(InvalidInput, match=r"(?s)NoSuchBucket.*MLFLOW_S3_ENDPOINT_URL.*AWS_ACCESS_KEY_ID"):
        Store(S3Bucket("nowhere", "x")).require_usable()


def test_the_launcher_and_every_worker_find_out_before_they_start(
    s3: S3, tree: BucketTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.WORK, str(tmp_path))
    nothing = tmp_path / "nothing"
    launch = Launch(nothing, (), 1, "sqlite:///a.db", "s3://nowhere/x", str(nothing), nothing, nothing)
    with pytest.raises(InvalidInput, match="NoSuchBucket"):
        check(launch, datetime.now(UTC))
    with pytest.raises(InvalidInput, match="NoSuchBucket"):
        sealing(S3Bucket("nowhere", "x"))
    found = sealing(PLACE)
    assert isinstance(found.tree, BucketTree)
    assert found.boundary.holds(f"{found.tree.root}/x")
    assert found.buckets is not None
    assert found.buckets.holds("models/ml/flow/sealed/x")


def test_missing_credentials_stop_the_server_and_say_what_to_set(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    _cached_get_s3_client.cache_clear()
    with pytest.raises(InvalidInput, match=r"(?s)credentials.*AWS_ACCESS_KEY_ID"):
        Store(PLACE).require_usable()
    _cached_get_s3_client.cache_clear()
    boto3.DEFAULT_SESSION = None


def test_the_private_directory_must_be_the_servers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.WORK, str(tmp_path))
    root = workplace(PLACE)
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o777 == 0o700
    assert workplace(PLACE) == root != workplace(S3Bucket("models", "other"))
    root.chmod(0o755)
    with pytest.raises(InvalidInput, match="alone"):
        workplace(PLACE)
    root.rmdir()
    root.symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="alone"):
        workplace(PLACE)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3://models/ml/flow", PLACE),
        ("s3://models/ml/flow/", PLACE),
        ("s3://models", S3Bucket("models", "")),
        ("s3://models/", S3Bucket("models", "")),
    ],
)
def test_a_bucket_and_prefix_with_one_spelling_are_a_destination(uri: str, place: S3Bucket) -> None:
    assert destination(uri) == place


@pytest.mark.parametrize(
    "uri",
    [
        "s3:///ml",
        "s3://",
        "S3://models/ml",
        "s3://MODELS/ml",
        "s3://models//ml",
        "s3://models/ml//",
        "s3://models/../ml",
        "s3://models/./ml",
        "s3://models/m%6c",
        "s3://models/m l",
        "s3://models/ml?x",
        "s3://models/ml#x",
        "s3://u@models/ml",
        "s3://models:9000/ml",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:x/ml",
        "s3://x-abc-s3alias/ml",
        "s3://models\n/ml",
    ],
)
def test_a_destination_with_other_spellings_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="cannot seal"):
        destination(uri)


INSIDE = [
    "models/ml/flow/sealed",
    "models/ml/flow/sealed/x",
    "models//ml/flow/sealed/x",
    "models/ml//flow/sealed//x",
    "models/ml/flow/./sealed/x",
    "models/x/../ml/flow/sealed/x",
    "models/ml/flow/sealed/../sealed/x",
    "models/ml%2Fflow/sealed",
    "models/ml/flow/%73ealed/x",
    "models/ml/flow/%2573ealed/x",
    "models/ml/flow/SEALED/x",
    "models/ml/flow/sealed/../x",
    "models/ml\\flow\\sealed\\x",
    "models/../../ml/flow/sealed/x",
    "MODELS/ml/flow/sealed/x",
    "m%6fdels/ml/flow/sealed/x",
    "u@models/ml/flow/sealed/x",
    "/ml/flow/sealed/x",
    "models:80/ml/flow/sealed",
    "x-abc-s3alias/ml/flow/sealed/x",
    "arn:aws:s3:us-east-1:123456789012:accesspoint:x/ml/flow/sealed/x",
    "models@acc.r2.cloudflarestorage.com/ml/flow/sealed",
    "ml@models.s3.us-west-004.backblazeb2.com/flow/sealed/x",
    "other@models.example.com/ml/flow/sealed/x",
]
OUTSIDE = [
    "models/ml/flow/0/m",
    "models/ml/flow/sealed2/x",
    "models/sealed/x",
    "models/ml/sealed/x",
    "other/ml/flow/sealed/x",
    "models/ml/flow/0/sealed/x",
    "models/ml/flow/sealed.json",
    "other@acc.r2.cloudflarestorage.com/ml/flow/sealed",
]
AROUND = [
    "models",
    "models/",
    "models/ml",
    "models/ml/flow",
    "models/ml/flow/",
    "models/ml/x/..",
    "models/%6d%6c",
    "MODELS/ml",
]


@pytest.mark.parametrize("target", INSIDE)
def test_a_location_in_the_tree_is_held(target: str) -> None:
    assert BucketBoundary(PLACE).holds(target)
    assert BucketBoundary(PLACE).touches(target)


@pytest.mark.parametrize("target", OUTSIDE)
def test_a_location_elsewhere_is_not(target: str) -> None:
    assert not BucketBoundary(PLACE).holds(target)
    assert not BucketBoundary(PLACE).touches(target)


@pytest.mark.parametrize("target", AROUND)
def test_deleting_around_the_tree_touches_it_and_writing_there_does_not(target: str) -> None:
    assert BucketBoundary(PLACE).touches(target)
    assert not BucketBoundary(PLACE).holds(target)


@pytest.fixture
def registry(tree: BucketTree) -> ArtifactRepositoryRegistry:
    """A table as MLflow's, guarded for a bucket."""
    made = ArtifactRepositoryRegistry()
    for scheme, kind in (
        ("file", LocalArtifactRepository),
        ("s3", S3ArtifactRepository),
        ("r2", R2ArtifactRepository),
        ("b2", B2ArtifactRepository),
        ("gs", GCSArtifactRepository),
    ):
        made.register(scheme, kind)
    made.register("dbfs", lambda uri, **_: S3ArtifactRepository(uri.replace("dbfs", "s3")))
    install(made, Boundary(tree.root), BucketBoundary(PLACE))
    return made


WRITES: dict[str, Callable[[Any, str, Path], object]] = {
    "log_artifact": lambda r, d, f: r.log_artifact(str(f), d),
    "log_artifacts": lambda r, d, f: r.log_artifacts(str(f.parent), d),
    "delete_artifacts": lambda r, d, _: r.delete_artifacts(d),
    "create_multipart_upload": lambda r, d, _: r.create_multipart_upload("weights", 1, d),
    "create_presigned_upload_url": lambda r, d, _: r.create_presigned_upload_url(f"{d}/weights"),
}
PARTS: dict[str, Callable[[Any, str, Path], object]] = {
    "complete_multipart_upload": lambda r, d, _: r.complete_multipart_upload("weights", "x", [], d),
    "abort_multipart_upload": lambda r, d, _: r.abort_multipart_upload("weights", "x", d),
}


@pytest.mark.parametrize("name", [*WRITES, *PARTS])
@pytest.mark.parametrize("root", ["s3://models/ml/flow", "s3://models", "s3://models//ml/"])
def test_no_way_of_writing_reaches_the_tree(
    s3: S3, tree: BucketTree, registry: ArtifactRepositoryRegistry, tmp_path: Path, name: str, root: str
) -> None:
    digest = keep(tree)
    before = s3.objects(PLACE.bucket, PLACE.prefix)
    (tmp_path / "weights").write_bytes(b"evil")
    inside = f"{PLACE.sealed}/{digest}".removeprefix(root.removeprefix("s3://models").strip("/")).lstrip("/")
    repository = registry.get_artifact_repository(root)
    for path in (inside, f"x/../{inside}", inside.replace("sealed", "%73ealed"), f"/{PLACE.sealed}/{digest}"):
        with pytest.raises(MlflowException, match="sealed adapters"):
            (WRITES | PARTS)[name](repository, path, tmp_path / "weights")
    assert s3.objects(PLACE.bucket, PLACE.prefix) == before


@pytest.mark.parametrize("path", [None, "", "ml", "ml/flow", "ml/flow/sealed", "ml/.."])
def test_nothing_around_the_tree_is_deleted(
    s3: S3, tree: BucketTree, registry: ArtifactRepositoryRegistry, path: str | None
) -> None:
    keep(tree)
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository("s3://models").delete_artifacts(path)
    assert len(s3.objects(PLACE.bucket, PLACE.sealed)) == 2


@pytest.mark.parametrize("name", list(WRITES))
def test_every_way_of_writing_works_elsewhere_in_the_same_bucket(
    registry: ArtifactRepositoryRegistry, tmp_path: Path, name: str
) -> None:
    (tmp_path / "weights").write_bytes(b"fine")
    for root, path in (("s3://models/ml/flow", "0/m"), ("s3://models/elsewhere", "sealed/m")):
        WRITES[name](registry.get_artifact_repository(root), path, tmp_path / "weights")


def test_an_address_that_was_signed_elsewhere_writes_there_and_not_into_the_tree(
    s3: S3, tree: BucketTree, registry: ArtifactRepositoryRegistry
) -> None:
    keep(tree)
    before = s3.objects(PLACE.bucket, PLACE.sealed)
    repository: Any = registry.get_artifact_repository("s3://models/ml/flow")
    made = repository.create_presigned_upload_url("0/weights")
    assert requests.put(made.presigned_url, b"fine", headers=made.headers, timeout=10).ok
    assert s3.objects(PLACE.bucket, f"{PLACE.prefix}/0")
    assert s3.objects(PLACE.bucket, PLACE.sealed) == before


@pytest.mark.parametrize(
    "location",
    [
        "s3://models/ml/flow/sealed",
        f"s3://models/ml/flow/sealed/{DIGEST}",
        "S3://models/ml/flow/sealed/x",
        "s3://models//ml/flow//sealed",
        "s3://models/ml/flow/%73ealed",
        "s3://models/x/../ml/flow/sealed",
        "s3://MODELS/ml/flow/sealed",
        "r2://models@acc.r2.cloudflarestorage.com/ml/flow/sealed/x",
        "gs://models/anything",
        "b2://models@s3.us-west-004.backblazeb2.com/ml/flow/sealed/x",
        "dbfs://models/ml/flow/x",
    ],
)
def test_a_location_in_the_tree_gets_no_repository(registry: ArtifactRepositoryRegistry, location: str) -> None:
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(location)


def test_no_client_reaches_the_private_directory(registry: ArtifactRepositoryRegistry, tree: BucketTree) -> None:
    with tree.staging() as place, pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(place.as_uri())
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(tree.root.parent.as_uri()).delete_artifacts()


def test_traces_that_go_to_storage_directly_are_judged(registry: ArtifactRepositoryRegistry, s3: S3) -> None:
    registry.get_artifact_repository("s3://models/ml/flow/0").upload_archived_trace_data_bytes(b"fine")
    assert s3.objects(PLACE.bucket, f"{PLACE.prefix}/0")


def test_reading_sealed_files_works(tree: BucketTree, registry: ArtifactRepositoryRegistry, tmp_path: Path) -> None:
    digest = keep(tree)
    repository = registry.get_artifact_repository("s3://models/ml/flow")
    found = Path(repository.download_artifacts(f"sealed/{digest}", str(tmp_path)))
    assert manifest_digest(manifest(found)) == digest


def test_a_repository_with_methods_that_nobody_classified_stops_the_server(tree: BucketTree) -> None:
    class Newer(S3ArtifactRepository):
        def move_artifacts(self, source: str, target: str) -> None:
            """As a newer MLflow might have."""

    made = ArtifactRepositoryRegistry()
    made.register("s3", Newer)
    with pytest.raises(InvalidInput, match="move_artifacts"):
        install(made, Boundary(tree.root), BucketBoundary(PLACE))


def test_every_method_of_the_installed_repositories_is_classified(registry: ArtifactRepositoryRegistry) -> None:
    for kind in (S3ArtifactRepository, R2ArtifactRepository, B2ArtifactRepository):
        names = {name for name in dir(kind) if not name.startswith("_")}
        assert names <= READS | JUDGED | THROUGH_JUDGED
    assert all(issubclass(registry._registry[scheme], Judging) for scheme in ("s3", "r2", "b2"))


def test_a_candidate_is_read_from_the_bucket_and_a_large_file_is_not_even_fetched(s3: S3, tmp_path: Path) -> None:
    s3.make(PLACE.bucket)
    (tmp_path / "proposed").mkdir()
    proposed = filled(tmp_path / "proposed")
    repository = S3ArtifactRepository("s3://models/ml/flow")
    repository.log_artifacts(str(proposed), "0/models/m-1/artifacts")
    reader = RepositoryReader(repository, "0/models/m-1/artifacts")
    (tmp_path / "copy").mkdir()
    download(reader, "", tmp_path / "copy")
    assert bytes_of(tmp_path / "copy") == bytes_of(proposed)
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    reader.listing("", "")
    s3.client().delete_object(Bucket=PLACE.bucket, Key="ml/flow/0/models/m-1/artifacts/weights")
    with pytest.raises(EvidenceInvalid, match="larger"):
        reader.fetch("", "weights", tmp_path / "copy" / "weights", 3)
