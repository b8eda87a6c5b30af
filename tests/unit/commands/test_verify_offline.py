"""``guardrail verify --directory``: an adapter on this disk, its evidence, and no server. How evidence is refused
whatever is wrong with it: ``server/test_verify_directory.py``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from gate_world import World, say, world

pytestmark = pytest.mark.slow
NOWHERE = ("--tracking-uri", "http://127.0.0.1:1")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    """A server with a version, whose files are also in ``folder/copy``."""
    with world(tmp_path) as made:
        made.admit()
        shutil.copytree(made.stored("1"), made.folder / "copy")
        yield made


def by_key(made: World) -> tuple[object, ...]:
    return ("--key", made.who["decider"].public_file)


def test_a_directory_verifies_without_a_server_and_says_what_nobody_checked(one: World) -> None:
    said = say("verify", "--directory", one.folder / "copy", *one.by_trust, *NOWHERE)
    assert said.code == 0, said.out
    for told in (
        "ok  stages    data by trainer; train by trainer; evaluate by evaluator",
        "ok  pinned",
        "holds exactly what was signed for guarded@production",
        "NOT CHECKED admission, attempt, approvals, revocation, alias",
    ):
        assert told in said.out
    by_keys = say("verify", "--directory", one.folder / "copy", *by_key(one), *NOWHERE)
    assert by_keys.code == 0, by_keys.out
    assert "NOT CHECKED stages, admission" in by_keys.out


def test_json_is_a_record_that_names_what_was_not_checked(one: World) -> None:
    words = ("verify", "guarded@production", "--directory", one.folder / "copy", *one.by_trust)
    record = json.loads(say(*words, "--output", "json").stdout)
    assert record["not_checked"] == ["admission", "attempt", "approvals", "revocation", "alias"]
    assert record["adapter_sha256"] == next(iter(one.gate.candidates.values())).bundle.decision.manifest
    assert all(check["why"] for check in record["checks"])


def test_what_was_pulled_verifies_where_it_lies(one: World) -> None:
    pulled = one.folder / "pulled"
    assert say("pull", "guarded@production", "--to", pulled, *one.by_trust, *one.server).code == 0
    assert say("verify", "--directory", pulled, *one.by_trust).code == 0


def test_a_changed_byte_another_target_and_another_base_are_refused(one: World) -> None:
    words = ("verify", "--directory", one.folder / "copy", *one.by_trust)
    assert say(*words, "guarded@staging").code == 11
    assert say(*words, "--base-sha256", "0" * 64).code == 11
    weights = one.folder / "copy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert say(*words).code == 11


def test_evidence_that_has_expired_or_whose_stages_somebody_else_signed_is_refused(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.admit(ago=timedelta(days=31))
        made.admit(seed=1, signers={"evaluate": "trainer"})
        assert say("verify", "--directory", made.stored("1"), *made.by_trust).code == 11
        assert say("verify", "--directory", made.stored("2"), *by_key(made)).code == 0
        assert say("verify", "--directory", made.stored("2"), *made.by_trust).code == 11


def test_a_version_no_evidence_and_nothing_at_all_are_invalid_input(one: World, tmp_path: Path) -> None:
    assert say("verify", "guarded/1", "--directory", one.folder / "copy", *one.by_trust).code == 2
    assert say("verify", "--directory", tmp_path, *one.by_trust).code == 2
    assert say("verify", *one.by_trust).code == 2
    assert say("verify", "--directory", one.folder / "copy").code == 2
