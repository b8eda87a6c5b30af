"""A run is a directory: what a stage wrote is read back, anything else is refused, and one process works at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from policy_evidence import chain
from repository import ROOT

from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput, ServiceUnavailable
from guardrail.pipeline.run import JOURNAL, STAGES, Run, RunConfig
from guardrail.policy.load import builtin, find_policy
from guardrail.records import AdapterRecord, DataReport

POLICY = find_policy("default")


@pytest.fixture
def record() -> DataReport:
    data = chain(POLICY.digest).data
    assert data is not None
    return data


@pytest.fixture
def run(tmp_path: Path) -> Run:
    started = Run(tmp_path / "run")
    started.start(POLICY, RunConfig(policy_source=POLICY.source, base="testbed", tasks=("code",)))
    return started


def test_a_record_is_read_back_as_it_was_written(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    assert run.read("data-report", DataReport) == record
    assert run.require("data-report", DataReport) == record


def test_policy_and_configuration_are_read_back(run: Run) -> None:
    config = run.config()
    assert config is not None
    assert (config.base, config.tasks) == ("testbed", ("code",))
    assert run.policy().digest == POLICY.digest


def test_the_policy_of_a_run_is_its_own_copy(run: Run) -> None:
    assert (run.path / "policy.yaml").read_bytes() == builtin("default").read_bytes()


def test_a_stage_that_has_not_run_is_no_record(run: Run) -> None:
    assert run.read("data-report", DataReport) is None


@pytest.mark.parametrize("name", list(STAGES))
def test_a_missing_record_names_the_command_that_makes_it(run: Run, name: str) -> None:
    with pytest.raises(EvidenceMissing) as caught:
        run.require(name, DataReport)
    assert STAGES[name] in caught.value.next_step


def test_a_record_with_any_one_byte_changed_is_refused(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    path = run.path / "data-report.json"
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(EvidenceInvalid, match="journal"):
            run.read("data-report", DataReport)


def test_a_record_under_the_name_of_another_stage_is_refused(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    (run.path / "data-report.json").rename(run.path / "adapter.json")
    with pytest.raises(EvidenceInvalid):
        run.read("adapter", AdapterRecord)


def test_a_record_without_its_journal_is_refused(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    (run.path / JOURNAL).unlink()
    with pytest.raises(EvidenceInvalid):
        run.read("data-report", DataReport)


def test_a_record_of_another_kind_is_refused_even_if_a_stage_wrote_it(run: Run, record: DataReport) -> None:
    run.write("adapter", record)
    with pytest.raises(EvidenceInvalid, match="is no adapter"):
        run.read("adapter", AdapterRecord)


def test_a_crash_between_journal_and_record_leaves_the_old_record_valid(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    with (run.path / JOURNAL).open("a") as journal:
        journal.write(f"{'0' * 64}  data-report\n")
    assert run.read("data-report", DataReport) == record


@pytest.mark.parametrize("lost", [1, 2, 20, 80])
def test_a_journal_line_that_was_torn_does_not_spoil_the_next_one(run: Run, record: DataReport, lost: int) -> None:
    run.write("data-report", record)
    run.write("data-report", record.model_copy(update={"inputs": "2" * 64}))
    journal = run.path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-lost])
    newer = record.model_copy(update={"inputs": "1" * 64})
    run.write("data-report", newer)
    assert run.read("data-report", DataReport) == newer


def test_the_journal_has_one_line_a_record_and_no_empty_ones(run: Run, record: DataReport) -> None:
    for number in range(3):
        run.write("data-report", record.model_copy(update={"inputs": str(number) * 64}))
    text = (run.path / JOURNAL).read_text()
    assert text.endswith("\n")
    assert [line.split("  ")[1] for line in text.splitlines()] == ["data-report"] * 3


def test_writing_again_replaces_the_record_and_leaves_no_temporary_file(run: Run, record: DataReport) -> None:
    run.write("data-report", record)
    newer = record.model_copy(update={"inputs": "1" * 64})
    run.write("data-report", newer)
    assert run.read("data-report", DataReport) == newer
    assert sorted(path.name for path in run.path.iterdir()) == ["data-report.json", JOURNAL, "policy.yaml", "run.json"]


def test_a_directory_that_is_no_run_says_how_to_start_one(tmp_path: Path) -> None:
    assert Run(tmp_path).config() is None
    with pytest.raises(EvidenceMissing) as caught:
        Run(tmp_path).policy()
    assert "guardrail data validate" in caught.value.next_step


def test_a_broken_configuration_is_refused(run: Run) -> None:
    (run.path / "run.json").write_text('{"base": "testbed", "surprise": 1}')
    with pytest.raises(EvidenceInvalid, match="configuration"):
        run.config()


def test_a_second_process_is_locked_out_and_let_in_afterwards(run: Run) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom guardrail.errors import InvalidInput\n"
        "from guardrail.pipeline.run import Run\n"
        "try:\n    with Run(Path(sys.argv[1])).locked():\n        print('in')\n"
        "except InvalidInput as error:\n    print(error.got)\n"
    )

    def enter() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, str(run.path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout

    with run.locked():
        assert "another process is working in" in enter()
    assert enter() == "in\n"


def test_a_lock_is_refused_within_the_same_process_too(run: Run) -> None:
    with run.locked(), pytest.raises(InvalidInput, match="another process"), run.locked():
        pass


def test_a_run_below_a_file_is_a_disk_that_cannot_be_written(tmp_path: Path, record: DataReport) -> None:
    (tmp_path / "file").write_text("")
    run = Run(tmp_path / "file" / "run")

    def start() -> None:
        run.start(POLICY, RunConfig(policy_source="default", base="testbed"))

    def write() -> None:
        run.write("data-report", record)

    def lock() -> None:
        with run.locked():
            pass

    for attempt in (start, write, lock):
        with pytest.raises(ServiceUnavailable) as caught:
            attempt()
        assert caught.value.exit_code == 5


def test_a_read_only_file_system_is_a_service_that_is_unavailable(record: DataReport) -> None:
    """The kernel's /sys takes no file from anybody, root included."""
    run = Run(Path("/sys/guardrail-run"))
    with pytest.raises(ServiceUnavailable):
        run.write("data-report", record)
    with pytest.raises(ServiceUnavailable), run.locked():
        pass


def test_a_full_disk_leaves_the_old_record_and_is_a_service_that_is_unavailable(run: Run, record: DataReport) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle, as on a full one."""
    run.write("data-report", record)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom guardrail.errors import ServiceUnavailable\n"
        "from guardrail.pipeline.run import Run\nfrom guardrail.records import DataReport\n"
        "run = Run(Path(sys.argv[1]))\nrecord = run.require('data-report', DataReport)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try:\n    run.write('data-report', record.model_copy(update={'inputs': '1' * 64}))\n"
        "except ServiceUnavailable as error:\n    sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert run.read("data-report", DataReport) == record
    assert not list(run.path.glob(".data-report*"))
