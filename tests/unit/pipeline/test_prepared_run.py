"""A run directory that somebody prepared leads nowhere: no link is followed, no pipe waited for, nothing elsewhere
changes, and the error names the file and what to do.

Which files a run has is read from the code, so a new one is tried as well.
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from every_command import asks
from policy_evidence import adapter_record, data_report, evaluation_report, safe_measurements
from prepared import KINDS, LINKS, Victim, at_once, put
from registry_bundles import adapter_directory
from repository import ROOT

from guardrail import nofollow
from guardrail.atomic import write_atomically, write_by
from guardrail.cli import cli
from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput
from guardrail.evidence.bundle import SIGNED, stage_file
from guardrail.evidence.digest import manifest, manifest_digest
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.ledger.ledger_file import LedgerFile
from guardrail.evidence.ledger.signed_ledger import next_entry
from guardrail.gate.sealed.queues import FILE
from guardrail.gate.sealed.tree import DiskTree
from guardrail.pipeline.gate.run_ticket import TICKET
from guardrail.pipeline.merge.other_run import read_another
from guardrail.pipeline.promotion import decide_run
from guardrail.pipeline.run import IN_PLACE, JOURNAL, LOCK, STAGES, Run, RunConfig
from guardrail.policy.load import find_policy
from guardrail.train import checkpoint, sealed_cache

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DEEP = (
    "data/clean.jsonl",
    "data/quarantine.jsonl",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "work/live.json",
    "work/cache/x.states",
    "work/checkpoints-user/job",
    "work/checkpoints-user/checkpoint-1/seal",
    "adapter.partial/adapter_config.json",
)
kinds = pytest.mark.parametrize("kind", KINDS)


def _names_in_code() -> set[str]:
    """What the pipeline joins to a run's path: ``run.path / NAME`` and ``self.path / f"{name}.json"``."""
    found: set[str] = set()
    for file in sorted((ROOT / "guardrail" / "pipeline").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                left = ast.unparse(node.left)
                if left in ("run.path", "self.path", "self.run.path", "path"):
                    found |= set(_resolved(module, node.right))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "run.render":
                found |= set(_resolved(module, node.args[0]))
    return found


def _resolved(module: str, node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.Name):
        value = getattr(importlib.import_module(module), node.id, None)
        yield from [value] if isinstance(value, str) else []
    elif isinstance(node, ast.Attribute):
        value = getattr(importlib.import_module("guardrail.registry.record.candidates"), node.attr, None)
        yield from [value] if isinstance(value, str) else []
    elif isinstance(node, ast.JoinedStr):
        yield from (f"{name}.json" for name in (*STAGES, "registry-record"))
    elif isinstance(node, ast.Call):
        yield from map(stage_file, SIGNED)


NAMES = tuple(sorted(_names_in_code() - {"work"}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was decided, without training."""
    run, policy = Run(tmp_path_factory.mktemp("made") / "run"), find_policy("default")
    run.start(policy, RunConfig(policy_source="default", base="testbed"))
    files = manifest(adapter_directory(run.path / "adapter"))
    data = data_report(policy.digest)
    adapter = adapter_record(policy.digest, data).model_copy(
        update={"files": files, "manifest": manifest_digest(files)}
    )
    with run.locked():
        run.write("data-report", data)
        run.write("adapter", adapter)
        run.write("evaluation-report", evaluation_report(policy.digest, adapter, safe_measurements()))
        decide_run(run, NOW)
    return run.path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy of its own."""
    return Run(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim.make(tmp_path / "victim")


def commands(run: Path, key: Path) -> tuple[tuple[object, ...], ...]:
    """Every command that works in a run (asked of the command line below)."""
    at = ("--run", run)
    return (
        ("promote", *at, "--dry-run"),
        ("promote", *at, "--key", key, "--tracking-uri", "sqlite:////nowhere/db"),
        ("policy", "test", "default", *at),
        ("evaluate", *at),
        ("train", *at),
        ("data", "validate", "testbed:sentiment", *at),
        ("run", "testbed:sentiment", *at, "--key", key, "--task", "sentiment"),
        ("candidate", "push", *at, "--tracking-uri", "http://127.0.0.1:1"),
        ("candidate", "pull", "0" * 64, *at, "--tracking-uri", "http://127.0.0.1:1"),
    )


def invoke(*words: object) -> int:
    """The code with which a command refuses, by itself or as click does."""
    with at_once():
        done = CliRunner().invoke(cli, list(map(str, words)))
    refused = isinstance(done.exception, GuardrailError) or done.exit_code == 2
    assert refused, (words, done.output, done.exception)
    return getattr(done.exception, "exit_code", done.exit_code)


def test_the_names_of_a_run_are_found_in_the_code(run: Run) -> None:
    """What a decided run holds, and what the other stages write."""
    assert {path.name for path in run.path.iterdir()} <= {*NAMES, LOCK}
    written = {
        "run.json",
        "policy.yaml",
        "responses.jsonl",
        "attempt.json",
        "report.html",
        "report.md",
        "decision.dsse.json",
        "train.dsse.json",
        "adapter",
        "adapter.partial",
        "data",
    }
    assert {JOURNAL, LOCK, TICKET, *written} <= set(NAMES)


@kinds
@pytest.mark.parametrize("name", [*NAMES, "work", *DEEP])
def test_whatever_leads_elsewhere_is_refused_and_stays(kind: str, name: str, run: Run, victim: Victim) -> None:
    if kind == "a directory" and name in ("adapter", "adapter.partial", "data", "work"):
        pytest.skip("a directory is what belongs there")
    if kind == "a directory" and name in DEEP:
        pytest.skip("an empty directory is no file: the digests of what lies there say so")
    put(kind, run.path / name, victim)
    before = victim.state()
    with at_once(), pytest.raises(GuardrailError) as caught:
        decide_under_lock(run)
    assert victim.state() == before
    error = caught.value
    assert error.exit_code in (2, 11)
    assert f"{run.path / name} is a" in error.got or kind == "a directory"
    assert name.split("/")[0] in error.message()
    assert "remove" in error.next_step or kind == "a directory"
    assert os.path.lexists(run.path / name)


def decide_under_lock(run: Run) -> None:
    """What ``promote`` does first; a directory in a file's place may be met anywhere up to the end of it."""
    with run.locked():
        for name in NAMES:
            if Path(name).suffix or name == JOURNAL:
                nofollow.read(run.path / name)
        decide_run(run, NOW)
        raise AssertionError("nothing was refused")


@pytest.mark.parametrize("name", [LOCK, JOURNAL, "run.json", "policy.yaml", TICKET, "data", "adapter.partial"])
@pytest.mark.parametrize(
    "kind", ["a link to a file", "a link to a directory", "a named pipe", "a link that leads nowhere"]
)
def test_no_command_follows_it(kind: str, name: str, run: Run, victim: Victim, tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path / "keys")
    put(kind, run.path / name, victim)
    before, state = victim.state(), sorted(path.name for path in run.path.iterdir())
    for words in commands(run.path, pair.private):
        assert invoke(*words) == (2 if words[:2] == ("candidate", "pull") else 11), words
        assert victim.state() == before
        assert sorted({path.name for path in run.path.iterdir()} - {LOCK}) == sorted({*state} - {LOCK})


def test_every_command_that_works_in_a_run_is_tried(run: Run) -> None:
    tried = {
        words[:2] if words[0] in ("data", "candidate", "policy") else words[:1]
        for words in commands(run.path, run.path)
    }
    assert tried == asks("--run")


@pytest.mark.parametrize("name", [JOURNAL, LOCK, "work/checkpoints-user/checkpoint-1/weights", "adapter.partial/x"])
def test_a_second_name_of_what_is_written_in_place_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    """A hard link: the bytes elsewhere would change with ours."""
    place = run.path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    os.link(place, tmp_path / "elsewhere")
    before = place.read_bytes()
    with pytest.raises(EvidenceInvalid, match="hard links") as caught, run.locked():
        pass
    assert str(place) in caught.value.got
    assert name.split("/")[0] in IN_PLACE
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_second_name_of_what_is_replaced_keeps_its_bytes(run: Run, tmp_path: Path) -> None:
    """A copy of a run that was made with hard links is worked on and does not change the first."""
    names = [path for path in run.path.rglob("*") if path.is_file() and path.name not in (JOURNAL, LOCK)]
    before = {}
    for number, path in enumerate(names):
        before[tmp_path / str(number)] = path.read_bytes()
        os.link(path, tmp_path / str(number))
    with run.locked():
        decide_run(run, datetime(2027, 6, 1, tzinfo=UTC))  # another decision: the old one has expired
    assert {path: path.read_bytes() for path in before} == before


def test_the_lock_is_not_emptied(run: Run) -> None:
    (run.path / LOCK).write_bytes(b"what somebody wrote")
    with run.locked():
        pass
    assert (run.path / LOCK).read_bytes() == b"what somebody wrote"


def test_a_record_without_end_is_refused_by_its_size(run: Run) -> None:
    for name in ("data-report.json", "run.json", JOURNAL, "policy.yaml", TICKET):
        copy = Run(shutil.copytree(run.path, run.path.with_name(f"big-{name}")))
        with (copy.path / name).open("ab") as stream:
            stream.truncate(1 << 40)  # a sparse file of a terabyte
        with at_once(), pytest.raises(EvidenceInvalid, match=r"more than .* bytes"):
            decide_under_lock(copy)


def test_the_directory_that_the_user_names_may_be_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    with Run(tmp_path / "link").locked():
        assert decide_run(Run(tmp_path / "link"), NOW).verdict.value == "PASSED"


def test_a_run_that_everybody_may_change_is_warned_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with run.locked():
        assert not caplog.messages
    run.path.chmod(0o777)
    with run.locked():
        assert "everybody on this machine may change" in caplog.messages[-1]


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize(
    "name", ["adapter", "adapter/adapter_config.json", "data", "data-report.json", JOURNAL, "extra"]
)
def test_another_run_leads_nowhere_either(kind: str, name: str, run: Run, victim: Victim) -> None:
    put(kind, run.path / name, victim)
    with at_once(), pytest.raises(EvidenceInvalid) as caught:
        read_another(run.path)
    assert str(run.path / name) in caught.value.got


@kinds
def test_an_output_that_the_user_names_is_replaced_only_if_it_is_a_file(
    kind: str, tmp_path: Path, victim: Victim
) -> None:
    put(kind, tmp_path / "out", victim)
    before = victim.state()
    writes: tuple[Callable[[Path], object], ...] = (
        lambda path: write_atomically(path, b"x"),
        lambda path: write_by(path, Path.touch),
    )
    for write in writes:
        with at_once(), pytest.raises(InvalidInput, match="is a"):
            write(tmp_path / "out")
    assert victim.state() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_a_device_is_never_renamed_over(tmp_path: Path) -> None:
    """As ``--write-head /dev/null`` would have done for root."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(InvalidInput, match="is a device"):
        write_atomically(device, b"x")
    assert device.is_char_device()


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize(
    "words",
    [
        ("trust", "init", "--out"),
        ("testbed", "data", "sentiment", "--file"),
        ("keys", "show", "KEY", "--out"),
        ("ledger", "verify", "LEDGER", "--key", "KEY", "--write-head"),
        ("keys", "init", "--name", "out", "--directory"),
    ],
    ids=" ".join,
)
def test_no_output_of_a_command_follows_a_link(
    kind: str, words: tuple[str, ...], tmp_path: Path, victim: Victim
) -> None:
    pair = key_pairs.init(tmp_path / "keys")
    ledger = LedgerFile(tmp_path / "ledger", tmp_path / "head")
    ledger.append(
        lambda head: next_entry(head, time=NOW, kind="proposal", model="m", alias="a", nonce="0" * 64),
        key_pairs.load_private(pair.private),
    )
    out = tmp_path / "place" / "out"
    put(kind, out.with_name("out.key") if words[:2] == ("keys", "init") else out, victim)
    before = victim.state()
    given = [{"KEY": pair.public, "LEDGER": ledger.path}.get(word, word) for word in words]
    assert invoke(*given, out.parent if words[:2] == ("keys", "init") else out) == 2
    assert victim.state() == before
    assert not (victim.folder / "new").exists()


@kinds
def test_a_ledger_leads_nowhere(kind: str, tmp_path: Path, victim: Victim) -> None:
    """The server's own file, and what lies beside it."""
    pair = key_pairs.init(tmp_path / "keys")
    for name in ("ledger", "ledger.pending", "head"):
        folder = tmp_path / name.replace(".", "-")
        put(kind, folder / name, victim)
        before = victim.state()
        with at_once(), pytest.raises(GuardrailError):
            LedgerFile(folder / "ledger", folder / "head").append(
                lambda head: next_entry(head, time=NOW, kind="proposal", model="m", alias="a", nonce="0" * 64),
                key_pairs.load_private(pair.private),
            )
        assert victim.state() == before
        (victim.folder / "link").unlink(missing_ok=True)


@kinds
def test_the_queues_of_the_sealed_tree_lead_nowhere(kind: str, tmp_path: Path, victim: Victim) -> None:
    tree = DiskTree(tmp_path / "tree")
    put(kind, tree.root / FILE, victim)
    before = victim.state()
    with at_once(), pytest.raises(GuardrailError), tree.queues.decisions.turn():
        pass
    assert victim.state() == before


@pytest.mark.parametrize("kind", LINKS)
def test_caches_and_checkpoints_lead_nowhere(kind: str, tmp_path: Path, victim: Victim) -> None:
    """Where a cache is not what was sealed it is made again; what a link points at stays."""
    before = victim.state()
    put(kind, tmp_path / "checkpoints", victim)
    checkpoint.prepare(tmp_path / "checkpoints", "job")
    assert not (tmp_path / "checkpoints").is_symlink()
    assert (tmp_path / "checkpoints" / "job").read_text() == "job"
    (victim.folder / "link").unlink(missing_ok=True)
    put(kind, tmp_path / "states.sha256", victim)
    (tmp_path / "states").write_text("x")
    with pytest.raises(GuardrailError, match="states"):
        sealed_cache.whole(tmp_path / "states")
    (victim.folder / "link").unlink(missing_ok=True)
    put(kind, tmp_path / "adapter", victim)
    nofollow.remove(tmp_path / "adapter")
    assert not os.path.lexists(tmp_path / "adapter")
    (victim.folder / "link").unlink(missing_ok=True)
    assert victim.state() == before


WRITES: dict[str, Callable[[ast.Call], bool]] = {
    "write_text": lambda _: True,
    "write_bytes": lambda _: True,
    "touch": lambda _: True,
    "symlink_to": lambda _: True,
    "copyfile": lambda _: True,
    "copy2": lambda _: True,
    "move": lambda _: True,
    "save": lambda call: ast.unparse(call.func) == "torch.save",
    "save_file": lambda _: True,
    "save_pretrained": lambda _: True,
    "copytree": lambda call: not any(word.arg == "symlinks" for word in call.keywords),
    "rmtree": lambda call: any(word.arg == "ignore_errors" for word in call.keywords),
    "open": lambda call: (
        any(
            isinstance(arg, ast.Constant) and isinstance(arg.value, str) and set(arg.value) & set("wa+")
            for arg in (*call.args, *(word.value for word in call.keywords if word.arg == "mode"))
        )
        or ast.unparse(call.func) == "os.open"
    ),
}
"""Calls that write by name, follow links, or do not say that they failed."""
ALLOWED = {
    "guardrail/nofollow.py: os.open": "the door",
    "guardrail/atomic.py: os.open": "flushes what was written",
    "guardrail/evidence/keys/key_files.py: os.open": "O_EXCL, O_NOFOLLOW",
    "guardrail/model/adapter.py: model.save_pretrained": "into a directory that was just removed",
    "guardrail/model/load.py: link.symlink_to": "in a temporary directory of ours",
    "guardrail/model/updates.py: save_file": "write_by",
    "guardrail/registry/read/pull.py: os.open": "flushes, in a private directory",
    "guardrail/registry/read/pull.py: shutil.rmtree": "a private directory, after use",
    "guardrail/registry/record/decision_run.py: (Path(place) / PAGE).write_text": "in a temporary directory of ours",
    "guardrail/registry/read/rest_reader.py: target.open": "in a private directory",
    "guardrail/gate/app/apps.py: Path(report).write_text": "in the launcher's private directory",
    "guardrail/gate/proposed_files.py: os.open": "O_NOFOLLOW, O_NONBLOCK",
    "guardrail/gate/sealed/tree.py: os.open": "directories, O_NOFOLLOW, and flushing",
    "guardrail/gate/sealed/tree.py: shutil.rmtree": "its own staging, after use",
    "guardrail/testbed/build.py: model.save_pretrained": "after require_regular",
    "guardrail/testbed/build.py: tokenizer.save_pretrained": "after require_regular",
    "guardrail/train/early_stopping.py: save_file": "write_by",
    "guardrail/train/memory.py: FORGET.write_text": "/proc/self/clear_refs",
    "guardrail/train/merge.py: shutil.copytree": "from a temporary directory of ours",
    "guardrail/train/methods/safe_lora.py: shutil.copytree": "from a temporary directory of ours",
    "guardrail/train/trainer.py: save_file": "write_by",
}


def test_nothing_writes_by_name_but_through_the_door() -> None:
    found = set()
    for path in sorted((ROOT / "guardrail").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in WRITES and WRITES[name](node):
                    found.add(f"{path.relative_to(ROOT)}: {ast.unparse(node.func)}")
    assert found == set(ALLOWED)
