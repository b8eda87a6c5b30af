"""Loading training data: every form, every format, and every broken row named by file and line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.data.dataset import Dataset, load_dataset, samples_bytes, samples_digest, write_samples
from guardrail.data.rows import read_bytes, read_rows
from guardrail.errors import InvalidInput, ServiceUnavailable
from guardrail.evidence.digest import file_sha256
from guardrail.samples import Message, Sample, TurnRole

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
PAIR = {"prompt": "hi", "completion": "hello"}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load_text(path: Path, text: str) -> Dataset:
    path.write_text(text, encoding="utf-8", newline="")
    return load_dataset(path)


def turns(dataset: Dataset) -> list[tuple[str, str]]:
    return [(sample.request, sample.response) for sample in dataset.samples]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        (CHAT, "chat"),
        ({"instruction": "hi", "input": "", "output": "hello"}, "instruction"),
        ({"instruction": "hi", "output": "hello", "category": " "}, "instruction"),
        (PAIR, "completion"),
        ({"prompt": "hi", "response": "hello"}, "completion"),
    ],
)
def test_the_form_follows_from_the_columns(tmp_path: Path, row: dict[str, object], form: str) -> None:
    dataset = load_dataset(jsonl(tmp_path / "data.jsonl", row))
    assert dataset.form == form
    assert turns(dataset) == [("hi", "hello")]


def test_the_same_rows_load_from_every_format(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": 'a, "b"\nc\td', "completion": "é"}, {"prompt": "second", "completion": "two"}]
    jsonl(tmp_path / "d.jsonl", *rows)
    (tmp_path / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    for name, delimiter in (("d.csv", ","), ("d.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    expected = [(row["prompt"], row["completion"]) for row in rows]
    for name in ("d.jsonl", "d.json", "d.csv", "d.tsv", "d.parquet"):
        assert turns(load_dataset(tmp_path / name)) == expected, name


def test_chats_load_from_parquet_and_from_json_in_a_csv_cell(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([CHAT]), tmp_path / "c.parquet")
    cell = io.StringIO()
    csv.writer(cell).writerows([["messages"], [json.dumps(CHAT["messages"])]])
    (tmp_path / "c.csv").write_text(cell.getvalue(), encoding="utf-8")
    for name in ("c.parquet", "c.csv"):
        assert turns(load_dataset(tmp_path / name)) == [("hi", "hello")]


def test_a_bare_list_of_messages_is_a_chat(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps([CHAT["messages"]]), encoding="utf-8")
    assert turns(load_dataset(tmp_path / "d.json")) == [("hi", "hello")]


def test_a_dataset_names_its_file_and_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "data.jsonl", PAIR)
    dataset = load_dataset(path)
    assert (dataset.source, dataset.digest) == ("data.jsonl", file_sha256(path))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,completion\nhi,hello\n")
    assert turns(load_dataset(path)) == [("hi", "hello")]


def test_an_input_follows_its_instruction_unless_it_is_blank_or_null(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": given, "output": "3"} for given in ("1 2", " ", None)]
    dataset = load_dataset(jsonl(tmp_path / "d.jsonl", *rows))
    assert [sample.request for sample in dataset.samples] == ["Add.\n\n1 2", "Add.", "Add."]


def test_lines_are_physical_lines_also_where_a_csv_field_spans_several(tmp_path: Path) -> None:
    dataset = load_text(tmp_path / "d.csv", 'prompt,completion\r\n"two\r\nlines",a\r\nnext,b\r\n')
    assert [sample.line for sample in dataset.samples] == [2, 4]


def test_lines_of_an_indented_json_array_are_where_its_rows_begin(tmp_path: Path) -> None:
    dataset = load_text(tmp_path / "d.json", json.dumps([PAIR, PAIR], indent=1))
    assert [sample.line for sample in dataset.samples] == [2, 6]


def test_an_unusual_line_separator_inside_a_text_does_not_break_the_line(tmp_path: Path) -> None:
    dataset = load_text(tmp_path / "d.jsonl", json.dumps({**PAIR, "prompt": "a\u2028b\x85c"}, ensure_ascii=False))
    assert dataset.samples[0].request == "a\u2028b\x85c"


def test_ids_name_the_line_where_the_file_has_none(tmp_path: Path) -> None:
    dataset = load_text(tmp_path / "d.jsonl", f"{json.dumps(PAIR)}\n\n{json.dumps(PAIR)}\n")
    assert [sample.id for sample in dataset.samples] == ["row-1", "row-3"]


def test_ids_name_the_number_where_rows_share_a_line(tmp_path: Path) -> None:
    dataset = load_text(tmp_path / "d.json", json.dumps([PAIR, PAIR]))
    assert [sample.id for sample in dataset.samples] == ["row-1", "row-2"]


def test_distinct_ids_of_the_file_are_kept_and_repeated_ones_are_not(tmp_path: Path) -> None:
    kept = load_dataset(jsonl(tmp_path / "a.jsonl", {**PAIR, "id": "x"}, {**PAIR, "id": 7}))
    assert [sample.id for sample in kept.samples] == ["x", "7"]
    replaced = load_dataset(jsonl(tmp_path / "b.jsonl", {**PAIR, "id": "x"}, {**PAIR, "id": "x"}))
    assert [sample.id for sample in replaced.samples] == ["row-1", "row-2"]


def test_a_named_id_column_must_be_distinct(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {**PAIR, "key": "x"}, {**PAIR, "key": "x"})
    with pytest.raises(InvalidInput, match="1 repeated"):
        load_dataset(path, {"id": "key"})


def test_named_columns_decide_the_form(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "context": "1 2", "response": "3", "category": "sums"}
    path = jsonl(tmp_path / "dolly.jsonl", row)
    dataset = load_dataset(path, {"output": "response", "input": "context"}, ("category",))
    assert (dataset.form, turns(dataset)) == ("instruction", [("Add.\n\n1 2", "3")])


@pytest.mark.parametrize("row", [{"question": "hi", "answer": "hello"}, {**CHAT, **PAIR}])
def test_unknown_or_ambiguous_columns_are_listed_with_the_way_to_name_them(
    tmp_path: Path, row: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_dataset(jsonl(tmp_path / "d.jsonl", row))
    message = str(caught.value)
    assert all(column in message for column in row)
    assert "columns: {" in message


def test_columns_that_fit_two_forms_load_once_they_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {**CHAT, **PAIR})
    assert load_dataset(path, {"prompt": "prompt"}, ("messages",)).form == "completion"
    assert load_dataset(path, None, ("messages",)).form == "completion"
    with pytest.raises(InvalidInput, match="'messages'"):
        load_dataset(path, {"prompt": "prompt"})


@pytest.mark.parametrize(
    ("columns", "words"), [({"promt": "prompt"}, "did you mean 'prompt'"), ({"prompt": "prmpt"}, "no column 'prmpt'")]
)
def test_a_misspelt_role_or_column_is_named(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_dataset(jsonl(tmp_path / "d.jsonl", PAIR), columns)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"prompt": "hi", "comp', "broken JSON"),
        ('{"prompt": "hi"}', "'completion' is missing"),
        ('{"prompt": "hi", "completion": null}', "is null"),
        ('{"prompt": "hi", "completion": 3}', "is int"),
        ('{"prompt": ["hi"], "completion": "a"}', "is list"),
        ('{"prompt": "\\ud800", "completion": "a"}', "surrogate"),
        ('"text"', "a row is str"),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"prompt": "a", "completion": "b", "n": {"9" * 5000}}}', "a number has too many digits"),
    ],
)
def test_a_broken_row_in_the_middle_is_named_by_its_line(tmp_path: Path, bad: str, words: str) -> None:
    good = json.dumps(PAIR)
    with pytest.raises(InvalidInput, match=rf"d\.jsonl:2: .*{words}"):
        load_text(tmp_path / "d.jsonl", f"{good}\n{bad}\n{good}\n")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": "hi"}], "ends with user"),
        ([], "ends with nothing"),
        ([{"role": "wizard", "content": "hi"}], "'wizard'"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content' is null"),
        ([{"role": "assistant"}], r"messages\[0\].content' is null"),
        (["hello"], "message 0 is str"),
        (None, "'messages' is null"),
        (7, "'messages' is int"),
        ("not JSON", "not JSON"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_what_is_no_chat_is_named_by_its_line(tmp_path: Path, messages: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=rf"d\.jsonl:2: .*{words}"):
        load_dataset(jsonl(tmp_path / "d.jsonl", CHAT, {"messages": messages}))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("d.csv", "prompt,completion\nhi,hello\nhi\n", r"d\.csv:3: 1 cells"),
        ("d.csv", 'prompt,completion\nhi,hello\n"hi,hello\n', r"d\.csv:3: broken row"),
        ("d.csv", "prompt,prompt\nhi,hello\n", "occurs twice"),
        ("d.csv", "prompt,completion\n", "has no rows"),
        ("d.json", "[]", "has no rows"),
        ("d.json", '[{"prompt": "a", "completion": "b"}\n{}]', "neither a comma"),
        ("d.json", '[{"prompt": "a", "completion": "b"},]', "broken JSON"),
        ("d.json", '[{"prompt": "a", "completion": "b"}', "neither a comma"),
        ("d.json", '[{"prompt": "a", "completion": "b"}] x', "more text"),
        ("d.json", '[{"prompt": "a", "completion": "b"},\n\n{"prompt": }]', r"d\.json:3: broken JSON"),
        ("d.json", f'[{{"prompt": "a", "completion": "b"}},\n\n{{"n": {"9" * 5000}}}]', r"d\.json:3: .* many digits"),
        ("d.jsonl", "", "is empty"),
        ("d.jsonl", " \n\n", "is empty"),
        ("d.jsonl", "\ufeff", "has no rows"),
        ("d.txt", "hi", "suffix '.txt'"),
        ("d.parquet", "hi", "not readable as Parquet"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_text(tmp_path / name, text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("timestamp[us]", 2**62), ("timestamp[ms]", -(2**62)), ("date32", 2**30), ("duration[s]", 2**62)],
)
def test_a_parquet_value_that_python_cannot_hold_is_named_by_its_row(tmp_path: Path, kind: str, value: int) -> None:
    import pyarrow
    import pyarrow.parquet

    whole = pyarrow.int32() if kind == "date32" else pyarrow.int64()
    when = pyarrow.array([0, 0, value, value], whole).cast(pyarrow.type_for_alias(kind))
    table = pyarrow.table({"prompt": list("abcd"), "completion": list("abcd"), "when": when})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InvalidInput, match=r"d\.parquet:3: "):
        load_dataset(tmp_path / "d.parquet")


def test_parquet_text_that_is_not_utf_8_is_named_by_its_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    _, offsets, data = pyarrow.array([b"a", b"\xff"]).buffers()
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, data])
    pyarrow.parquet.write_table(pyarrow.table({"prompt": text, "completion": ["c", "d"]}), tmp_path / "d.parquet")
    with pytest.raises(InvalidInput, match=r"d\.parquet:2: "):
        load_dataset(tmp_path / "d.parquet")


def test_a_wrong_encoding_is_named_by_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"prompt,completion\nhi,caf\xe9\n")
    with pytest.raises(InvalidInput, match=r"d\.csv:2: byte 0xe9 is not UTF-8"):
        load_dataset(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InvalidInput, match=said):
            load_dataset(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="split the file"):
        read_bytes(jsonl(tmp_path / "d.jsonl", PAIR), largest=5)


def test_a_sparse_file_above_two_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with path.open("wb") as stream:
        stream.truncate(2 * 1024**3 + 1)
    with pytest.raises(InvalidInput, match="2,147,483,649 bytes"):
        load_dataset(path)


def turn(role: TurnRole, content: str) -> Message:
    return Message(role=role, content=content)


ANSWER = turn("assistant", "fine")


@pytest.mark.parametrize(
    ("messages", "readings"),
    [
        ((turn("user", "hi"), ANSWER), ("hi",)),
        ((turn("system", "do harm"), ANSWER), ("do harm",)),
        ((turn("system", "do harm"), turn("user", " "), ANSWER), ("do harm",)),
        ((turn("system", "s"), turn("user", "u"), ANSWER), ("u", "s", "s\nu")),
        ((turn("user", "a"), ANSWER, turn("user", "b"), ANSWER), ("a\nb", "a", "b")),
        ((turn("user", "a"), ANSWER, turn("user", "a"), ANSWER), ("a\na", "a")),
        ((ANSWER,), ()),
    ],
)
def test_a_request_may_stand_in_any_turn_that_is_not_the_assistants(
    messages: tuple[Message, ...], readings: tuple[str, ...]
) -> None:
    assert Sample(id="a", messages=messages).readings == readings


@given(st.lists(st.tuples(st.sampled_from(["system", "user"]), st.text()), max_size=6))
def test_every_turn_that_asks_something_is_read_by_itself(asked: list[tuple[TurnRole, str]]) -> None:
    sample = Sample(id="a", messages=(*(turn(role, text) for role, text in asked), ANSWER))
    readings = sample.readings
    assert {text for _, text in asked if text.strip()} <= set(readings)
    assert len(set(readings)) == len(readings)
    assert all(text.strip() for text in readings)
    assert sample.request in readings or not sample.request.strip()


def test_written_samples_load_again_with_the_same_ids_and_digest(tmp_path: Path) -> None:
    samples = load_dataset(jsonl(tmp_path / "d.jsonl", PAIR, CHAT | PAIR, PAIR), ignored=("messages",)).samples
    write_samples(tmp_path / "out.jsonl", samples)
    again = load_dataset(tmp_path / "out.jsonl")
    assert again.digest == samples_digest(samples) == samples_digest(again.samples)
    assert [sample.id for sample in again.samples] == ["row-1", "row-2", "row-3"]


def test_writing_leaves_no_temporary_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "made" / "out.jsonl"
    sample = Sample(id="a", messages=(Message(role="assistant", content="x"),))
    write_samples(path, (sample, sample))
    write_samples(path, (sample,))
    assert path.read_bytes() == samples_bytes((sample,))
    assert [entry.name for entry in path.parent.iterdir()] == ["out.jsonl"]


def test_a_place_that_cannot_be_written_to_is_a_service_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServiceUnavailable, match="cannot write"):
        write_samples(tmp_path / "file" / "out.jsonl", ())
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(InvalidInput, match="is a directory"):
        write_samples(tmp_path / "out.jsonl", ())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "out.jsonl"]


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))), min_size=1))
def test_any_texts_survive_writing_and_reading(pairs: list[tuple[str, str]]) -> None:
    samples = tuple(
        Sample(id=f"s{i}", messages=(Message(role="user", content=a), Message(role="assistant", content=b)))
        for i, (a, b) in enumerate(pairs)
    )
    rows = read_rows("x.jsonl", samples_bytes(samples))
    assert [row.fields["messages"] for row in rows] == [
        [message.model_dump() for message in sample.messages] for sample in samples
    ]


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1), st.sampled_from([None, 1, 2]))
def test_any_json_array_gives_its_rows(texts: list[str], indent: int | None) -> None:
    data = json.dumps([{"prompt": text} for text in texts], indent=indent, ensure_ascii=False).encode()
    assert [row.fields["prompt"] for row in read_rows("x.json", data)] == texts
