"""A file that is no text in UTF-8 is called what it is, by every reader, with a next step that fits it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail.data.dataset import load_dataset
from guardrail.errors import InvalidInput
from guardrail.evaluate.tables import read_table
from guardrail.file_kinds import decoded, kind_of
from guardrail.pipeline.prompts import replay_prompts
from guardrail.yaml_document import read_document

ROW = '{"prompt": "hi", "completion": "hello"}\n'
READERS: dict[str, Callable[[Path], object]] = {
    "data": load_dataset,
    "suite": read_table,
    "replay": lambda path: replay_prompts(str(path), "other"),
    "yaml": lambda path: read_document(path.read_bytes(), path.name),
}


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["hi"], "completion": ["hello"]}), stream)
    return stream.getvalue()


def arrow() -> bytes:
    """As ``datasets`` writes it, a stream."""
    import pyarrow

    table, stream = pyarrow.table({"prompt": ["hi"]}), io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("d.jsonl", ROW)
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("d.jsonl"))
    return stream.getvalue()


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "UTF-16": (lambda: ROW.encode("utf-16"), "iconv -f UTF-16 "),
    "UTF-16 without": (lambda: ROW.encode("utf-16-le"), "iconv -f UTF-16LE "),
    "UTF-16 without a byte": (lambda: ROW.encode("utf-16-be"), "iconv -f UTF-16BE "),
    "UTF-32": (lambda: ROW.encode("utf-32"), "iconv -f UTF-32 "),
    "gzip": (lambda: gzip.compress(ROW.encode()), "gzip -dc"),
    "bzip2": (lambda: bz2.compress(ROW.encode()), "bzip2 -dc"),
    "xz": (lambda: lzma.compress(ROW.encode()), "xz -dc"),
    "ZIP": (archive, "unpack"),
    "tar": (tar, "unpack"),
    "Arrow": (arrow, "to_json"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_text_is_called_what_it_is_and_how_to_make_text_of_it(
    tmp_path: Path, reader: str, kind: str
) -> None:
    make, advice = KINDS[kind]
    path = tmp_path / "d.jsonl"
    path.write_bytes(make())
    with pytest.raises(InvalidInput, match=kind) as refused:
        READERS[reader](path)
    assert advice in refused.value.next_step
    assert "1252" not in str(refused.value)


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.parquet", "d.csv"])
def test_a_compressed_file_is_called_so_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(ROW.encode()))
    with pytest.raises(InvalidInput, match="compressed with gzip"):
        load_dataset(tmp_path / name)


def test_parquet_under_another_suffix_is_called_parquet(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(parquet())
    with pytest.raises(InvalidInput, match="is a Parquet file") as refused:
        load_dataset(tmp_path / "d.jsonl")
    assert "FILE.parquet" in refused.value.next_step


def test_other_bytes_that_are_no_text_are_not_said_to_be_of_an_old_encoding(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b"\x80\x02}q\x00(X\x06\x00\x00\x00")
    with pytest.raises(InvalidInput) as refused:
        load_dataset(tmp_path / "d.jsonl")
    assert "no text" in refused.value.next_step


def test_a_text_of_one_byte_letters_keeps_the_advice_that_fits_it(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(ROW.replace("hi", "\xe9t\xe9").encode("cp1252"))
    with pytest.raises(InvalidInput, match=r"d\.jsonl:1: byte 0xe9") as refused:
        load_dataset(tmp_path / "d.jsonl")
    assert "WINDOWS-1252" in refused.value.next_step


@settings(max_examples=30)
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60))
def test_no_text_without_zeros_is_taken_for_anything_else(text: str) -> None:
    data = text.encode()
    assert kind_of(data) is None or data.startswith(b"PK\x03\x04")
    assert decoded("d", data) == text.removeprefix("\ufeff") or data.startswith(b"PK\x03\x04")


@pytest.mark.parametrize(
    ("files", "said", "advice"),
    [
        (("state.json", "dataset_info.json", "data-00000-of-00001.arrow"), "save_to_disk", 'load_from_disk("'),
        (("dataset_dict.json", "train/state.json"), "several splits", '["train"].to_json('),
        (("train.parquet", "README.md"), "is a folder", "train.parquet"),
        ((), "is a folder", "give a file"),
    ],
)
@pytest.mark.parametrize("reader", ["data", "suite", "replay"])
def test_a_folder_is_called_what_it_is_and_how_to_export_it(
    tmp_path: Path, reader: str, files: tuple[str, ...], said: str, advice: str
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(InvalidInput, match=said) as refused:
        READERS[reader](folder)
    assert advice in refused.value.next_step


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of a process as Linux shows them")
def test_reading_parquet_leaves_no_thread_that_could_abort_the_process_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "d.parquet").write_bytes(parquet())
    program = (
        "import os, sys, pyarrow, pyarrow.parquet\n"
        "from pathlib import Path\n"
        "from guardrail.data.dataset import load_dataset\n"
        "before = os.listdir('/proc/self/task')\n"
        "assert load_dataset(Path(sys.argv[1])).samples[0].request == 'hi'\n"
        "assert os.listdir('/proc/self/task') == before, os.listdir('/proc/self/task')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "d.parquet")]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
