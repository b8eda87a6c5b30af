"""Nothing of a data file is dropped or mistaken without a word: it is read, ignored by name, or refused by name."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.data.dataset import Dataset, load_dataset
from guardrail.errors import InvalidInput

PAIR = {"prompt": "hi", "completion": "hello"}
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def load(tmp_path: Path, *rows: object, ignored: tuple[str, ...] = (), columns: Any = None) -> Dataset:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_dataset(path, columns, ignored)


def refused(tmp_path: Path, *rows: object, ignored: tuple[str, ...] = ()) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, *rows, ignored=ignored)
    return caught.value


@pytest.mark.parametrize("value", ["You answer in capitals.", [["Who?", "Me."]], {"a": [1]}, 0, False, 3.5])
@pytest.mark.parametrize("row", [PAIR, {"messages": TURNS}, {"instruction": "hi", "output": "hello"}])
def test_a_column_that_is_not_read_is_refused_by_name_wherever_it_begins(
    tmp_path: Path, row: dict[str, object], value: object
) -> None:
    error = refused(tmp_path, row, row, {**row, "extra": value}, {**row, "other": value})
    assert "'extra' (from line 3 on), 'other' (from line 4 on)" in error.got
    assert "ignore_columns: [extra, other]" in error.next_step


def test_a_column_that_the_policy_ignores_by_name_is_left_out(tmp_path: Path) -> None:
    dataset = load(tmp_path, {**PAIR, "source": "web", "system": "Be kind."}, ignored=("source", "system", "absent"))
    assert [message.content for message in dataset.samples[0].messages] == ["hi", "hello"]
    assert "'system'" in refused(tmp_path, {**PAIR, "source": "web", "system": "Be kind."}, ignored=("source",)).got


@pytest.mark.parametrize("value", [None, "", " \n", [], {}, [None, ""], {"a": None, "b": [""]}])
def test_a_column_in_which_nothing_stands_drops_nothing(tmp_path: Path, value: object) -> None:
    assert load(tmp_path, {**PAIR, "system": value}, {**PAIR, "history": value}).form == "completion"
    turns = [{**turn, "tool_calls": value} for turn in TURNS]
    assert load(tmp_path, {"messages": turns}).form == "chat"


def test_a_column_that_the_policy_reads_cannot_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no column 'q'"):
        load(tmp_path, {"q": "hi", "completion": "hello"}, columns={"prompt": "q"}, ignored=("q",))


def test_the_form_is_that_of_all_rows_and_not_of_the_first(tmp_path: Path) -> None:
    first, second = {"instruction": "Add.", "output": "3"}, {"instruction": "Add.", "input": "1 2", "output": "3"}
    requests = [sample.request for sample in load(tmp_path, first, second).samples]
    assert requests == ["Add.", "Add.\n\n1 2"]


def test_a_row_of_another_form_is_refused_by_line(tmp_path: Path) -> None:
    error = refused(tmp_path, PAIR, {"prompt": "hi"}, {"messages": TURNS})
    assert error.got == "d.jsonl:3: the row is of the form chat, and rows before it are of the form completion"
    assert "which fit chat and completion" in refused(tmp_path, {**PAIR, "messages": TURNS}, PAIR).got


@given(extras=st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["", "x", 0, None])), min_size=1))
def test_whatever_stands_in_a_column_that_is_not_read_is_named(
    tmp_path_factory: pytest.TempPathFactory, extras: list[dict[str, object]]
) -> None:
    rows = [{**PAIR, **extra} for extra in extras]
    told = {key for extra in extras for key, value in extra.items() if value in ("x", 0)}
    folder = tmp_path_factory.mktemp("d")
    if not told:
        assert len(load(folder, *rows).samples) == len(rows)
        return
    error = refused(folder, *rows)
    assert {key for key in ("a", "b") if f"'{key}'" in error.got} == told


@pytest.mark.parametrize("key", ["tool_calls", "reasoning_content", "name", "thinking"])
def test_what_a_turn_says_beside_role_and_content_is_refused_by_line_or_ignored_by_name(
    tmp_path: Path, key: str
) -> None:
    bad = {"messages": [TURNS[0], {**TURNS[1], key: [{"id": 1}]}]}
    error = refused(tmp_path, {"messages": TURNS}, bad)
    assert f"d.jsonl:2: message 1 has '{key}'" in error.got
    assert f"ignore_columns: [messages.{key}]" in error.next_step
    assert len(load(tmp_path, {"messages": TURNS}, bad, ignored=(f"messages.{key}",)).samples) == 2


def _weighted(*weights: object) -> dict[str, object]:
    turns = [turn for _ in range(len(weights) // 2) for turn in TURNS]
    return {"messages": [{**turn, "weight": weight} for turn, weight in zip(turns, weights, strict=True)]}


@pytest.mark.parametrize("weights", [(0, 1), (None, 1.0), (0, 0, 0, 1), (None, 0, None, None), (0, None, 0, True)])
def test_turns_without_weight_are_context_as_they_always_are(tmp_path: Path, weights: tuple[object, ...]) -> None:
    plain = [turn for _ in range(len(weights) // 2) for turn in TURNS]
    assert load(tmp_path, _weighted(*weights)).samples == load(tmp_path, {"messages": plain}).samples


@pytest.mark.parametrize(
    ("weights", "number"),
    [((0, 0), 1), ((None, 0.5), 1), ((None, "1"), 1), ((1, 1), 0), ((0, 1, 0, 1), 1), ((0, 0, 0, False), 3)],
)
def test_a_weight_that_training_would_not_keep_to_is_refused_by_line(
    tmp_path: Path, weights: tuple[object, ...], number: int
) -> None:
    error = refused(tmp_path, {"messages": TURNS}, _weighted(*weights), ignored=("messages.weight",))
    assert f"d.jsonl:2: message {number} has the weight" in error.got


@pytest.mark.parametrize("label", [False, "false", "False "])
def test_a_row_that_is_labelled_undesired_is_refused_even_where_the_column_is_ignored(
    tmp_path: Path, label: object
) -> None:
    rows = [{**PAIR, "label": True}, {**PAIR, "label": label}]
    assert "d.jsonl:2: the row is labelled undesired" in refused(tmp_path, *rows, ignored=("label",)).got
    assert "'label'" in refused(tmp_path, rows[0]).got
    assert len(load(tmp_path, rows[0], ignored=("label",)).samples) == 1


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("d.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "b", "completion": "c"}', 2),
        ("d.jsonl", '{"messages": [{"role": "user", "content": "a", "content": "b"}]}', 1),
        ("d.json", '[{"prompt": "a", "completion": "b"},\n{"prompt": "a", "prompt": "a", "completion": "b"}]', 2),
        ("d.csv", 'messages\n"[{""role"": ""user"", ""role"": ""assistant"", ""content"": ""a""}]"\n', 2),
    ],
)
def test_a_key_that_occurs_twice_is_refused_by_line(tmp_path: Path, name: str, text: str, where: int) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput, match=rf"{name}:{where}: .*the name '\w+' is there twice"):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.jsonl.gz", gzip.compress(b"{}", mtime=0)),
        ("d.jsonl", gzip.compress(b"{}", mtime=0)),
        ("d.jsonl.bz2", bz2.compress(b"{}")),
        ("d.json.xz", lzma.compress(b"{}")),
        ("d.zip", b"PK\x03\x04\x00"),
        ("d.jsonl.zst", b"\x28\xb5\x2f\xfd\x00"),
    ],
    ids=["gzip", "gzip without its suffix", "bzip2", "xz", "zip", "zstandard"],
)
def test_a_compressed_file_is_called_so(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidInput, match=r"compressed with|a ZIP archive"):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "got", "next_step"),
    [
        ({"conversations": [{"from": "human", "value": "hi"}]}, "conversations", "ShareGPT"),
        ({"messages": [{"from": "human", "value": "hi"}]}, "the role None", "from and value"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chosen, rejected", "preference pairs"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "'prompt' is list", "called messages"),
        ({"messages": [{"role": "developer", "content": "x"}, *TURNS]}, "'developer'", "call the role system"),
        ({"messages": [*TURNS[:1], {"role": "tool", "content": "x"}]}, "'tool'", "not read yet"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "is list", "content parts"),
        (
            [{"messages": TURNS}, {"messages": TURNS}],
            "a JSON array of 2 rows stands on one line",
            "call the file .json",
        ),
    ],
)
def test_another_form_is_called_by_its_name_with_what_to_do(
    tmp_path: Path, row: object, got: str, next_step: str
) -> None:
    error = refused(tmp_path, row)
    assert got in error.got
    assert next_step in error.next_step


def test_rows_inside_of_one_object_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"version": 1, "rows": [PAIR]}, indent=1), encoding="utf-8")
    with pytest.raises(InvalidInput, match="over several lines; its rows may be under 'rows'"):
        load_dataset(tmp_path / "d.json")
    (tmp_path / "d.json").write_text(json.dumps(PAIR), encoding="utf-8")
    assert len(load_dataset(tmp_path / "d.json").samples) == 1


def test_a_chat_in_pythons_repr_is_called_so(tmp_path: Path) -> None:
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["messages"], [repr(TURNS)]])
    with pytest.raises(InvalidInput, match=r"d\.csv:2: messages is Python's repr") as caught:
        load_dataset(tmp_path / "d.csv")
    assert "json.dumps" in caught.value.next_step


def test_turns_that_parquet_keeps_by_columns_are_read_and_uneven_ones_refused(tmp_path: Path) -> None:
    by_columns = {"role": ["user", "assistant"], "content": ["hi", "hello"]}
    assert load(tmp_path, {"messages": by_columns}).samples == load(tmp_path, {"messages": TURNS}).samples
    assert "is dict" in refused(tmp_path, {"messages": {**by_columns, "content": ["hi"]}}).got


@pytest.mark.slow
def test_no_parquet_file_ends_the_process_otherwise_than_by_its_exit_code(tmp_path: Path) -> None:
    """Arrow's threads outlived the interpreter once in some 25 times, on one core; none may be started."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"messages": {"role": ["user"], "content": ["hi", "hello"]}}])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    code = (
        "import sys, os, pathlib\n"
        "import pyarrow.parquet\n"
        "from guardrail.data.dataset import load_dataset\n"
        "from guardrail.errors import InvalidInput\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "try: load_dataset(pathlib.Path(sys.argv[1]))\n"
        "except InvalidInput: sys.exit(2 if len(os.listdir('/proc/self/task')) == before else 3)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d.parquet")], check=False, timeout=120)
    assert ended.returncode == 2
