"""The ledger's file: what was said to be written is there, and what a crash left is finished or refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledgers import forged, head_of, history
from trust_files import NOW, key, public

from guardrail.commands.ledger import command
from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import canonical
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.ledger.entries import CheckedLedger, Entry, Head
from guardrail.evidence.ledger.ledger_file import LedgerFile, envelopes, read_head
from guardrail.evidence.ledger.signed_ledger import next_entry, verify

GOOD = history(5)
LINES = [data + b"\n" for data in GOOD]


def make(head: Head | None) -> Entry:
    return next_entry(head, time=NOW, kind="decision")


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerFile:
    return LedgerFile(tmp_path / "ledger", tmp_path / "elsewhere" / "head")


def whole(ledger: LedgerFile) -> CheckedLedger:
    return verify(envelopes(ledger.path), public("server"), read_head(ledger.head_path))


def laid_out(ledger: LedgerFile, content: bytes, *, head: int, pending: bytes | None) -> None:
    """What a crash may leave: the file's bytes, the head after so many entries, the pending line."""
    ledger.path.write_bytes(content)
    ledger.head_path.parent.mkdir(exist_ok=True)
    if head:
        ledger.head_path.write_bytes(canonical(head_of(GOOD[:head])))
    if pending is not None:
        ledger.pending.write_bytes(pending)


def test_entries_are_appended_and_the_head_exported(ledger: LedgerFile) -> None:
    heads = [ledger.append(make, key("server")) for _ in range(3)]
    assert [head.number for head in heads] == [1, 2, 3]
    assert whole(ledger).entries == 3
    assert read_head(ledger.head_path) == heads[-1]
    assert not ledger.pending.exists()


@pytest.mark.parametrize("cut", [0, 1, 100, len(LINES[4]) - 1, len(LINES[4])])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_line_that_a_crash_cut_off_anywhere_is_finished(ledger: LedgerFile, cut: int, before: int) -> None:
    line = LINES[before]
    laid_out(ledger, b"".join(LINES[:before]) + line[: min(cut, len(line))], head=before, pending=line)
    assert ledger.append(make_late, key("server")).number == before + 2
    assert whole(ledger).entries == before + 2
    assert list(envelopes(ledger.path))[: before + 1] == GOOD[: before + 1]
    assert not ledger.pending.exists()


def make_late(head: Head | None) -> Entry:
    assert head is not None
    return next_entry(head, time=head.time, kind="decision")


def test_a_crash_after_the_head_was_exported_leaves_nothing_to_finish(ledger: LedgerFile) -> None:
    laid_out(ledger, b"".join(LINES), head=5, pending=LINES[4])
    assert ledger.append(make_late, key("server")).number == 6
    assert whole(ledger).entries == 6


@pytest.mark.parametrize("cut", [0, 100, len(LINES[4])])
def test_a_server_that_starts_finishes_the_line_and_removes_what_was_half_written(
    ledger: LedgerFile, tmp_path: Path, cut: int
) -> None:
    laid_out(ledger, b"".join(LINES[:4]) + LINES[4][:cut], head=4, pending=LINES[4])
    statements = tmp_path / "ledger.statements"
    statements.mkdir()
    left = [
        tmp_path / ".ledger.pending.abcd_123",
        ledger.head_path.with_name(".head.abcd1234"),
        statements / ".cafe.dsse.json.abcd1234",
    ]
    kept = [statements / "cafe.dsse.json", tmp_path / ".ledger.pending.not.ours"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    assert ledger.cut_off() == (cut == 100)
    ledger.recover(statements)
    assert whole(ledger).entries == 5
    assert [path.exists() for path in (*left, *kept)] == [False, False, False, True, True]
    assert not ledger.cut_off()


REFUSED = {
    "a torn line that nobody remembers": (b"".join(LINES[:4]) + LINES[4][:50], 4, None),
    "another torn line": (b"".join(LINES[:4]) + b"x" + LINES[4][:50], 4, LINES[4]),
    "an end that is missing": (b"".join(LINES[:3]), 4, None),
    "an end that is missing before a pending line": (b"".join(LINES[:3]), 4, LINES[4]),
    "an entry that was never exported": (b"".join(LINES), 4, None),
    "no head": (b"".join(LINES), 0, None),
    "no entries": (b"", 4, None),
    "a pending line that does not follow": (b"".join(LINES[:3]), 3, LINES[4]),
    "a pending line that is none": (b"".join(LINES[:4]), 4, b"junk\n"),
    "a last line that was changed": (b"".join([*LINES[:4], forged(make(None)) + b"\n"]), 5, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_end_as_was_exported_is_refused_and_left_alone(ledger: LedgerFile, name: str) -> None:
    content, head, pending = REFUSED[name]
    laid_out(ledger, content, head=head, pending=pending)
    with pytest.raises(EvidenceInvalid):
        ledger.append(make, key("server"))
    assert ledger.path.read_bytes() == content


def test_an_entry_that_is_refused_writes_nothing(ledger: LedgerFile) -> None:
    laid_out(ledger, b"".join(LINES), head=5, pending=None)
    with pytest.raises(EvidenceInvalid):
        ledger.append(lambda _: make(None), key("server"))
    assert ledger.path.read_bytes() == b"".join(LINES)
    assert not ledger.pending.exists()


def _append_often(path: Path, head: Path, key_file: Path) -> None:
    for _ in range(5):
        LedgerFile(path, head).append(make, key_pairs.load_private(key_file))


def test_processes_that_share_a_ledger_lose_nothing(ledger: LedgerFile, tmp_path: Path) -> None:
    pair = key_pairs.init(tmp_path / "keys")
    context = multiprocessing.get_context("fork")
    arguments = (ledger.path, ledger.head_path, pair.private)
    processes = [context.Process(target=_append_often, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = verify(envelopes(ledger.path), [key_pairs.load_public(pair.public)], read_head(ledger.head_path))
    assert found.entries == 15


def test_a_ledger_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceUnavailable):
        LedgerFile(tmp_path / "file" / "ledger", tmp_path / "head").append(make, key("server"))


@pytest.mark.parametrize("content", [b"\n", b"x" * 200_000, LINES[0] + b"\n" + LINES[1], LINES[0][:-1], b"\x00" * 10])
def test_a_line_that_is_none_is_refused(ledger: LedgerFile, content: bytes) -> None:
    ledger.path.write_bytes(content)
    with pytest.raises(EvidenceInvalid):
        verify(envelopes(ledger.path), public("server"))


def test_a_reader_sees_the_ledger_as_it_was_when_it_began_and_does_not_hold_a_writer_up(ledger: LedgerFile) -> None:
    laid_out(ledger, b"".join(LINES), head=5, pending=None)
    reading = envelopes(ledger.path)
    assert next(reading) == GOOD[0]
    ledger.append(make_late, key("server"))
    assert list(reading) == GOOD[1:]
    assert len(list(envelopes(ledger.path))) == 6


# the command


def invoke(*args: object) -> Result:
    return CliRunner().invoke(command, ["verify", *map(str, args)])


@pytest.fixture
def files(ledger: LedgerFile, tmp_path: Path) -> tuple[Path, ...]:
    laid_out(ledger, b"".join(LINES), head=5, pending=None)
    (tmp_path / "server.pub").write_text(key_pairs.public_pem(key("server").public_key))
    return ledger.path, ledger.head_path, tmp_path / "server.pub"


def test_verify_says_what_it_found_and_what_it_cannot_know(files: tuple[Path, ...]) -> None:
    path, head, public_key = files
    done = invoke(path, "--key", public_key, "--head", head)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("5 entries, each signed")
    assert "the exported head is reached" in done.output
    assert "whether the end is missing is not known" in invoke(path, "--key", public_key).output
    printed = invoke(path, "--key", public_key, "--output", "json").output
    assert CheckedLedger.model_validate_json(printed).head == head_of(GOOD)


def test_verify_reports_a_clock_that_stepped_back(files: tuple[Path, ...]) -> None:
    path, _, public_key = files
    path.write_bytes(b"".join(data + b"\n" for data in history(2, seconds=[0, -5])))
    assert "entry 2 is 5.000 s older" in invoke(path, "--key", public_key).output


def test_verify_writes_the_head_of_what_it_verified(files: tuple[Path, ...], tmp_path: Path) -> None:
    path, head, public_key = files
    assert invoke(path, "--key", public_key, "--write-head", tmp_path / "new").exit_code == 0
    assert (tmp_path / "new").read_bytes() == head.read_bytes()


def test_verify_refuses_what_does_not_hold(files: tuple[Path, ...], tmp_path: Path) -> None:
    path, head, public_key = files
    path.write_bytes(b"".join(LINES[:4]))
    for arguments, kind in (
        ((path, "--key", public_key, "--head", head), EvidenceInvalid),
        ((path, "--key", public_key, "--head", public_key), InvalidInput),
        ((tmp_path / "absent", "--key", public_key), InvalidInput),
    ):
        error = invoke(*arguments).exception
        assert isinstance(error, GuardrailError)
        assert isinstance(error, kind)
