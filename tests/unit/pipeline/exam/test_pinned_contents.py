"""A suite or task with other contents than the policy pins is refused; the digest is of the contents alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import POLICY, write_policy

from guardrail.errors import InvalidInput
from guardrail.evidence.digest import digest, sha256
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.pinned_contents import contents, require_pinned
from guardrail.pipeline.run import RunConfig
from guardrail.policy.load import LoadedPolicy, load_policy

OTHER = sha256(b"other contents")
FILES = {"harmful": "harmful.jsonl", "benign": "benign.csv", "sums": "sums.jsonl"}


def pinning(folder: Path, name: str, pin: str, text: str = POLICY) -> LoadedPolicy:
    """The tiny policy with files of its own, one of its suites or its task pinned."""
    file = FILES[name]
    return load_policy(write_policy(folder, text.replace(f"path: {file}", f"path: {file}, sha256: '{pin}'")))


def digests(folder: Path, text: str = POLICY) -> dict[str, str]:
    found = contents(load_policy(write_policy(folder, text)))
    return {one.place.partition(".")[2]: one.sha256 or "" for one in found}


def read(policy: LoadedPolicy, name: str, split: str | None = None) -> str:
    exam = Exam(policy, RunConfig(policy_source=policy.source, base="testbed"))
    return digest(exam.task(name, split) if name == "sums" else exam.suite(name, split))


@pytest.mark.parametrize("name", FILES)
def test_what_is_pinned_is_read_and_anything_else_is_refused_with_both_digests_and_the_file(
    tmp_path: Path, name: str
) -> None:
    true = digests(tmp_path)[name]
    assert read(pinning(tmp_path, name, true), name) == true
    with pytest.raises(InvalidInput) as caught:
        read(pinning(tmp_path, name, OTHER), name)
    assert f"{tmp_path / FILES[name]} has the digest {true}" in caught.value.got
    assert caught.value.expected.startswith(f"{OTHER}, as {tmp_path / 'policy.yaml'}:")


@pytest.mark.parametrize("name", FILES)
def test_a_prompt_that_was_changed_is_noticed_on_every_split(tmp_path: Path, name: str) -> None:
    halves = POLICY.replace("split: all", "split: gate")
    policy = pinning(tmp_path, name, digests(tmp_path, halves)[name], halves)
    for split in (None, "validation"):
        read(policy, name, split)
    file = tmp_path / FILES[name]
    file.write_text(file.read_text().replace("school", "library").replace("What is", "How much is"))
    for split in (None, "validation"):
        with pytest.raises(InvalidInput, match="has the digest"):
            read(policy, name, split)


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_the_testbeds_suites_can_be_pinned_too(tmp_path: Path, kind: str) -> None:
    text = POLICY.replace(f"split: all, path: {FILES[kind]}", f"split: gate, path: {FILES[kind]}")
    text = text.replace(f"{kind}: {{format: {'jsonl' if kind == 'harmful' else 'csv'}", f"{kind}: {{format: testbed")
    assert read(pinning(tmp_path, kind, digests(tmp_path, text)[kind], text), kind)
    with pytest.raises(InvalidInput, match="has the digest"):
        read(pinning(tmp_path, kind, OTHER, text), kind)


def test_where_a_file_lies_and_what_it_is_called_does_not_matter(tmp_path: Path) -> None:
    elsewhere = POLICY.replace("path: ", "path: ../moved/other-")
    first = digests(tmp_path / "a")
    write_policy(tmp_path / "moved")
    for file in FILES.values():
        (tmp_path / "moved" / file).rename(tmp_path / "moved" / f"other-{file}")
    assert digests(tmp_path / "b", elsewhere) == first


def test_spelling_the_same_rows_otherwise_does_not_matter(tmp_path: Path) -> None:
    first = digests(tmp_path)["harmful"]
    file = tmp_path / FILES["harmful"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\r\n".join(json.dumps(row, indent=None, separators=(",", ":"), sort_keys=True) for row in rows))
    assert contents(load_policy(tmp_path / "policy.yaml"))[0].sha256 == first


def test_name_and_split_matter(tmp_path: Path) -> None:
    first = digests(tmp_path)
    renamed = POLICY.replace("harmful:", "renamed:").replace("suite: harmful", "suite: renamed")
    halves = digests(tmp_path, POLICY.replace("split: all", "split: gate"))
    assert digests(tmp_path, renamed)["renamed"] != first["harmful"]
    assert all(halves[name] != first[name] for name in FILES)


def test_what_is_there_is_listed_and_what_does_not_fit_is_refused_at_its_place(tmp_path: Path) -> None:
    policy = pinning(tmp_path, "benign", OTHER)
    (tmp_path / FILES["sums"]).unlink()
    harmful, benign, sums = contents(policy)
    assert [harmful.fits, benign.fits, sums.fits] == [True, False, True]
    assert (sums.sha256, sums.problem[:19]) == (None, "cannot be read here")
    with pytest.raises(InvalidInput) as caught:
        require_pinned(policy, (harmful, benign, sums))
    line = next(n for n, text in enumerate(POLICY.splitlines(), start=1) if text.startswith("  benign:"))
    assert caught.value.got.startswith(f"{tmp_path / 'policy.yaml'}:{line}:")
    assert OTHER in caught.value.got
    assert str(benign.sha256) in caught.value.got
    require_pinned(policy, (harmful, sums))
