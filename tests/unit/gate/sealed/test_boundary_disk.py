"""Which paths lead into the sealed tree, and that every way of writing judges them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import (
    ArtifactRepositoryRegistry,
    get_registered_artifact_repositories,
)
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from parts_repository import PartsRepository

from guardrail.errors import InvalidInput
from guardrail.gate.sealed.boundary_disk import ELSEWHERE, INDIRECT, JUDGED, READS, THROUGH_JUDGED, Boundary, install
from guardrail.gate.sealed.guarded_repository import Judging

DIGEST = "ab" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An artifact root with one sealed adapter and symbolic links to it."""
    place = tmp_path / "artifacts" / "sealed" / DIGEST
    place.mkdir(parents=True)
    (place / "weights").write_bytes(b"good")
    (tmp_path / "artifacts" / "link").symlink_to(place.parent)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path / "artifacts"


@pytest.fixture
def registry(root: Path) -> ArtifactRepositoryRegistry:
    """A table as MLflow's, guarded."""
    made = ArtifactRepositoryRegistry()
    made.register("", LocalArtifactRepository)
    made.register("file", PartsRepository)
    made.register("plugin", lambda *_, **__: None)
    made.register("dbfs", lambda uri, **_: LocalArtifactRepository(uri))
    install(made, Boundary(root / "sealed"))
    return made


INSIDE = [
    "sealed",
    "sealed/",
    f"sealed/{DIGEST}/weights",
    "./sealed/x",
    "a/../sealed/x",
    "sealed/../sealed/x",
    "%73ealed/x",
    "%2573ealed/x",
    "sealed%2Fx",
    "a/%2e%2e/sealed/x",
    "link/x",
    f"link/{DIGEST}/weights",
    "../loop/x",
    "a\0b",
    "../artifacts/sealed/x",
]
OUTSIDE = ["a", "0/models/m-1/artifacts/weights", "sealed2/x", "a/sealed/x", "sealed/../x", "sealed.json", "100%/x"]


@pytest.mark.parametrize("path", INSIDE)
def test_a_path_into_the_tree_is_held(root: Path, path: str) -> None:
    assert Boundary(root / "sealed").holds(f"{root}/{path}")


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_elsewhere_is_not(root: Path, path: str) -> None:
    assert not Boundary(root / "sealed").holds(f"{root}/{path}")
    assert not Boundary(root / "sealed").touches(f"{root}/{path}")


@pytest.mark.parametrize("path", ["", ".", "..", "a/..", "../..", "%2e", "sealed", f"sealed/{DIGEST}"])
def test_deleting_around_the_tree_touches_it(root: Path, path: str) -> None:
    assert Boundary(root / "sealed").touches(f"{root}/{path}")


async def _chunks() -> AsyncIterator[bytes]:
    yield b"evil"


WRITES: dict[str, Callable[[Any, str, Path], object]] = {
    "log_artifact": lambda r, d, f: r.log_artifact(str(f), d),
    "log_artifacts": lambda r, d, f: r.log_artifacts(str(f.parent), d),
    "log_artifact_from_stream": lambda r, d, _: r.log_artifact_from_stream(io.BytesIO(b"evil"), "weights", d),
    "log_artifact_from_async_stream": lambda r, d, _: asyncio.run(
        r.log_artifact_from_async_stream(_chunks(), "weights", d)
    ),
    "delete_artifacts": lambda r, d, _: r.delete_artifacts(d),
    "create_multipart_upload": lambda r, d, _: r.create_multipart_upload("weights", 1, d),
    "complete_multipart_upload": lambda r, d, f: r.complete_multipart_upload("weights", str(f.parent), [], d),
    "abort_multipart_upload": lambda r, d, _: r.abort_multipart_upload("weights", "x", d),
    "create_presigned_upload_url": lambda r, d, _: r.create_presigned_upload_url(f"{d}/weights"),
}


@pytest.mark.parametrize("name", list(WRITES))
@pytest.mark.parametrize("where", [f"sealed/{DIGEST}", "link/x", "%73ealed/x"])
def test_no_way_of_writing_reaches_the_tree(
    registry: ArtifactRepositoryRegistry, root: Path, tmp_path: Path, name: str, where: str
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "1").write_bytes(b"evil")
    repository = registry.get_artifact_repository(root.as_uri())
    with pytest.raises(MlflowException, match="sealed adapters"):
        WRITES[name](repository, where, tmp_path / "own" / "1")
    assert (root / "sealed" / DIGEST / "weights").read_bytes() == b"good"
    assert [path.name for path in (root / "sealed").iterdir()] == [DIGEST]


@pytest.mark.parametrize("name", list(WRITES))
def test_every_way_of_writing_works_elsewhere(
    registry: ArtifactRepositoryRegistry, root: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "1").write_bytes(b"fine")
    (root / "0").mkdir()
    WRITES[name](registry.get_artifact_repository(root.as_uri()), "0", tmp_path / "own" / "1")


def test_a_tree_of_files_that_holds_a_sealed_path_is_refused(
    registry: ArtifactRepositoryRegistry, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "own" / "sealed").mkdir(parents=True)
    (tmp_path / "own" / "sealed" / "x").write_bytes(b"evil")
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(str(root)).log_artifacts(str(tmp_path / "own"))


@pytest.mark.parametrize("form", ["{}/sealed", "file://{}/sealed/x", "file://{}/%73ealed", "{}/link"])
def test_a_location_in_the_tree_gets_no_repository(registry: ArtifactRepositoryRegistry, root: Path, form: str) -> None:
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(form.format(root))


def test_schemes_of_unknown_plugins_and_disguised_local_ones_are_refused(
    registry: ArtifactRepositoryRegistry, root: Path
) -> None:
    with pytest.raises(MlflowException, match="does not know where"):
        registry.get_artifact_repository("plugin://anything")
    with pytest.raises(MlflowException, match="sealed adapters"):
        registry.get_artifact_repository(f"dbfs:{root}")


def test_reading_sealed_files_works(registry: ArtifactRepositoryRegistry, root: Path, tmp_path: Path) -> None:
    repository = registry.get_artifact_repository(root.as_uri())
    assert [f.path for f in repository.list_artifacts(f"sealed/{DIGEST}")] == [f"sealed/{DIGEST}/weights"]
    (tmp_path / "got").mkdir()
    found = repository.download_artifacts(f"sealed/{DIGEST}/weights", str(tmp_path / "got"))
    assert Path(found).read_bytes() == b"good"


def test_installing_twice_changes_nothing(registry: ArtifactRepositoryRegistry, root: Path) -> None:
    before = dict(registry._registry)
    install(registry, Boundary(root / "sealed"))
    assert registry._registry[""] is before[""]


def test_a_repository_with_methods_that_nobody_classified_stops_the_server(root: Path) -> None:
    class Newer(LocalArtifactRepository):
        def move_artifacts(self, source: str, target: str) -> None:
            """As a newer MLflow might have."""

    made = ArtifactRepositoryRegistry()
    made.register("file", Newer)
    with pytest.raises(InvalidInput, match="move_artifacts"):
        install(made, Boundary(root / "sealed"))


def test_every_scheme_and_method_of_the_installed_mlflow_is_classified() -> None:
    schemes = set(get_registered_artifact_repositories())
    assert schemes <= ELSEWHERE | INDIRECT | {"", "file"}
    names = {name for name in dir(PartsRepository) if not name.startswith("_")}
    assert names <= READS | JUDGED | THROUGH_JUDGED
    assert {name for name in vars(Judging) if not name.startswith("_")} >= JUDGED
