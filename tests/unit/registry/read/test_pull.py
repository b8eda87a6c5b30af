"""``guardrail pull``: what verified lies there afterwards, byte for byte, or nothing does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate_world import Said, World, say, world
from policy_evidence import BASE

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.registry.read.pull import pull


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    """A server with one version, and an empty directory to pull into."""
    (tmp_path / "here").mkdir()
    with world(tmp_path) as made:
        made.admit()
        yield made


def pulled(made: World, *more: object, spec: str = "guarded@production") -> Said:
    return say("pull", spec, "--to", made.folder / "here" / "adapter", *made.by_trust, *made.server, *more)


def left(made: World) -> list[str]:
    return [path.name for path in (made.folder / "here").iterdir()]


def test_what_verified_is_there_byte_for_byte(one: World) -> None:
    said = pulled(one)
    assert said.code == 0, said.out
    assert "written     " in said.out
    assert left(one) == ["adapter"]
    sealed = one.stored("1")
    assert manifest_digest(manifest(one.folder / "here" / "adapter")) == sealed.name
    assert (one.folder / "here" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_key_in_place_of_a_trust_file_is_enough(one: World) -> None:
    decider = ("--key", one.who["decider"].public_file)
    target = one.folder / "here" / "adapter"
    said = say("pull", "guarded/1", "--to", target, *decider, *one.server, "--output", "json")
    assert said.code == 0, said.out
    assert json.loads(said.stdout)["version"] == "1"
    assert target.is_dir()


def test_nothing_is_left_behind_where_a_byte_was_changed(one: World) -> None:
    weights = one.stored("1") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert pulled(one).code == 11
    assert left(one) == []


def test_nothing_is_left_behind_where_the_adapter_was_revoked(one: World) -> None:
    say("registry", "revoke", "--yes", "guarded/1", *one.key("ana"), "--reason", "it leaks", *one.server)
    assert pulled(one).code == 11
    assert left(one) == []


def test_another_base_is_refused(one: World) -> None:
    said = pulled(one, "--base-sha256", "0" * 64)
    assert said.code == 11
    assert left(one) == []
    assert pulled(one, "--base-sha256", BASE.digest).code == 0


@pytest.mark.slow
def test_a_base_that_is_named_is_loaded_and_compared(one: World) -> None:
    said = pulled(one, "--base", "testbed")  # which the evidence is about
    assert said.code == 0, said.out
    assert left(one) == ["adapter"]
    assert "not compared with yours" in say("verify", "guarded/1", *one.by_trust, *one.server).out


def test_a_base_is_named_in_one_way(one: World) -> None:
    assert pulled(one, "--base-sha256", BASE.digest, "--base", "testbed").code == 2
    assert left(one) == []


def test_a_place_that_is_taken_is_left_alone(one: World) -> None:
    target = one.folder / "here" / "adapter"
    target.mkdir()
    assert pulled(one).code == 2
    assert list(target.iterdir()) == []
    target.rmdir()
    target.symlink_to(one.folder / "nowhere")
    assert pulled(one).code == 2
    assert target.is_symlink()


def test_a_place_without_a_directory_around_it_is_invalid_input(one: World) -> None:
    target = one.folder / "absent" / "adapter"
    assert say("pull", "guarded/1", "--to", target, *one.by_trust, *one.server).code == 2
    assert not target.parent.exists()


def test_a_place_that_somebody_took_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "adapter"

    def verify(place: Path) -> None:
        (place / "weights").write_bytes(b"mine")
        target.mkdir()
        (target / "weights").write_bytes(b"theirs")

    with pytest.raises(InvalidInput):
        pull(target, verify)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert (target / "weights").read_bytes() == b"theirs"


def test_an_interrupted_pull_leaves_nothing(tmp_path: Path) -> None:
    def verify(place: Path) -> None:
        (place / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(tmp_path / "adapter", verify)
    assert list(tmp_path.iterdir()) == []
