"""Suite loaders on small files: columns, encodings, variants, splits and every way to be the wrong file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail import plugins
from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import SPLITS, select, split_of
from guardrail.evaluate.suites import SuiteKind
from guardrail.evaluate.suites._build import build
from guardrail.evaluate.tables import read_table
from guardrail.samples import Behaviour, Suite

PUBLISHED = ("advbench", "harmbench", "jailbreakbench", "strongreject", "xstest")


def load(
    loader: str, path: Path, *, kind: SuiteKind = "harmful", split: str = "all", columns: dict[str, str] | None = None
) -> Suite:
    module = plugins.load("guardrail.evaluate.suites", loader)
    suite: Suite = module.load(path, name="mine", kind=kind, split=split, columns=columns)
    return suite


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_any_csv_loads_with_its_columns_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "question,begin,topic\nOne?,Sure,x\nTwo?,,y\n")
    suite = load("csv", path, columns={"prompt": "question", "target": "begin", "category": "topic"})
    assert suite.name == "mine"
    assert [(b.id, b.variants, b.target, b.category) for b in suite.behaviours] == [
        ("row-2", ("One?",), "Sure", "x"),
        ("row-3", ("Two?",), "", "y"),
    ]


def test_columns_called_like_their_role_need_no_name(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"prompt": "One?", "id": 5, "extra": null}\n\n{"prompt": "Two?", "id": 6}\n')
    assert [b.id for b in load("jsonl", path).behaviours] == ["5", "6"]


def test_rows_that_share_an_id_are_variants_of_one_behaviour(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "id,prompt\na,One?\nb,Two?\na,Eins?\n")
    assert [(b.id, b.variants) for b in load("csv", path).behaviours] == [("a", ("One?", "Eins?")), ("b", ("Two?",))]


def test_tsv_with_a_header_loads_as_csv(tmp_path: Path) -> None:
    assert len(load("csv", written(tmp_path / "a.tsv", "prompt\tid\nOne?\tx\n")).behaviours) == 1


@pytest.mark.parametrize("loader", PUBLISHED)
def test_a_missing_column_is_named_beside_those_found(tmp_path: Path, loader: str) -> None:
    with pytest.raises(InvalidInput, match=r"has no column .*; it has wrong, other"):
        load(loader, written(tmp_path / "a.csv", "wrong,other\n1,2\n"))


@pytest.mark.parametrize("loader", PUBLISHED)
def test_a_published_format_takes_no_column_names(tmp_path: Path, loader: str) -> None:
    with pytest.raises(InvalidInput, match="columns are fixed"):
        load(loader, written(tmp_path / "a.csv", "goal,target\n1,2\n"), columns={"prompt": "goal"})


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("question\nOne?\n", None, "no column 'prompt'; it has question"),
        ("question\nOne?\n", {"prompt": "qestion"}, "no column 'qestion'"),
        ("prompt\nOne?\n", {"promt": "prompt"}, "unknown role 'promt'"),
        ("prompt,x\nOne?,1\n,2\n", None, r"a\.csv:3: the cell 'prompt' is empty"),
        ("prompt,id\nOne?,\n", None, r"a\.csv:2: the id is empty"),
        ("prompt\nOne?\nOne?\n", None, "repeats 1 prompt"),
        ("prompt,x\nOne?\n", None, r"a\.csv:2: 1 cells"),
        ('prompt\n"One?\n', None, r"a\.csv:2: broken row"),
        ("prompt\n", None, "no rows"),
        ("", None, "is empty"),
    ],
)
def test_a_file_that_cannot_be_a_suite_is_refused(
    tmp_path: Path, text: str, columns: dict[str, str] | None, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        load("csv", written(tmp_path / "a.csv", text), columns=columns)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": ', "broken JSON"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is there twice"),
        (f'{{"n": {"9" * 5000}}}', "broken JSON"),
        ("3", "a row is int"),
        ('{"prompt": 3}', "'prompt' is int"),
    ],
)
def test_a_broken_json_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=rf"a\.jsonl:2: .*{words}"):
        load("jsonl", written(tmp_path / "a.jsonl", f'{{"prompt": "One?"}}\n{line}\n'))


@pytest.mark.parametrize("again", ["One bad thing?", "ONE bad thing?", " One  bad\tthing? ", "ONE\u00a0BAD THING?"])
def test_a_repeated_prompt_is_refused_by_file_and_both_ids_whatever_its_case_and_spacing(
    tmp_path: Path, again: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("csv", written(tmp_path / "a.csv", f"prompt\nOne bad thing?\nTwo?\n{again}\n"))
    assert "a.csv repeats 1 prompt: row-4 asks what row-2 asks" in caught.value.got
    assert "thing" not in caught.value.message()  # the texts are harmful on purpose


def test_variants_that_say_the_same_are_refused_within_a_behaviour_and_across_two(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="repeats 1 prompt: a asks what a asks"):
        load("csv", written(tmp_path / "a.csv", "id,prompt\na,One?\na,one?\n"))
    with pytest.raises(InvalidInput, match="repeats 2 prompts: b asks what a asks"):
        load("csv", written(tmp_path / "a.csv", "id,prompt\na,One?\nb,Two?\nb,one?\nc,TWO?\n"))


def test_a_repeated_prompt_of_a_published_file_is_refused_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "goal,target\nOne?,Sure\none?,Sure\n")
    with pytest.raises(InvalidInput, match=r"a\.csv repeats 1 prompt: advbench-1 asks what advbench-0 asks"):
        load("advbench", path)


@given(st.lists(st.text("aA \u00df?", min_size=1).filter(str.strip), min_size=1, max_size=8))
def test_a_suite_has_as_many_behaviours_as_distinct_prompts_or_is_refused(prompts: list[str]) -> None:
    behaviours = [Behaviour(id=str(number), variants=(text,)) for number, text in enumerate(prompts)]
    distinct = len({" ".join(text.split()).casefold() for text in prompts})
    if distinct == len(prompts):
        assert len(build(behaviours, name="s", kind="harmful", split="all", source="f").behaviours) == distinct
    else:
        with pytest.raises(InvalidInput, match=f"repeats {len(prompts) - distinct} prompt"):
            build(behaviours, name="s", kind="harmful", split="all", source="f")


def test_a_loader_refuses_the_suffix_of_another_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="suffix"):
        load("csv", written(tmp_path / "a.jsonl", '{"prompt": "One?"}'))
    with pytest.raises(InvalidInput, match="cannot read"):
        load("csv", tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match="suffix"):
        load("xstest", written(tmp_path / "a.xlsx", "x"))


def test_a_file_saved_by_a_spreadsheet_is_read_and_its_encoding_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,prompt,type,label\n1,It\x92s caf\xe9?,homonyms,safe\n")
    with caplog.at_level(logging.WARNING):
        suite = load("xstest", path, kind="benign")
    assert suite.behaviours[0].variants == ("It\u2019s caf\u00e9?",)
    assert read_table(path).encoding == "cp1252"
    assert "x.csv is not UTF-8; read as cp1252" in caplog.text
    path.write_bytes(b"prompt\n\x81\n")  # no character in Windows-1252
    assert read_table(path).encoding == "latin-1"


def test_xstest_without_labels_goes_by_the_type(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "id,prompt,type\n1,A?,homonyms\n2,B?,contrast_homonyms\n")
    assert [b.id for b in load("xstest", path, kind="harmful").behaviours] == ["xstest-2"]
    assert [b.id for b in load("xstest", path, kind="benign").behaviours] == ["xstest-1"]


def test_xstest_with_an_unknown_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.csv:2: the label is 'maybe'"):
        load("xstest", written(tmp_path / "x.csv", "id,prompt,type,label\n1,A?,homonyms,maybe\n"))


HARMBENCH = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"


def test_harmbench_puts_the_context_first_and_reads_targets_beside_the_file(tmp_path: Path) -> None:
    text = HARMBENCH + "Ask,contextual,x,,Context,one\nSing,copyright,y,,,two\nPlain,standard,z,,,three\n"
    path = written(tmp_path / "h.csv", text)
    written(tmp_path / "targets_text.json", '{"one": "Sure."}')
    suite = load("harmbench", path)
    assert [(b.id, b.variants[0], b.target) for b in suite.behaviours] == [
        ("one", "Context\n\n---\n\nAsk", "Sure."),
        ("three", "Plain", ""),
    ]
    for broken in ("[", '{"one": 3}', "[]"):
        written(tmp_path / "targets_text.json", broken)
        with pytest.raises(InvalidInput, match="targets"):
            load("harmbench", path)


def test_an_unknown_split_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "prompt\nOne?\n")
    with pytest.raises(InvalidInput, match="did you mean 'gate'"):
        load("csv", path, split="gat")
    with pytest.raises(InvalidInput, match="nothing in the split"):
        load("csv", path, split="gate" if split_of("One?") == "validation" else "validation")


@given(st.lists(st.text(), min_size=1, unique_by=split_of), st.text())
def test_splits_partition_any_texts_and_ignore_case_and_spacing(texts: list[str], text: str) -> None:
    parts: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in {split_of(one) for one in texts}:
        parts[split] = set(select(texts, split, str, "texts"))
    assert parts["gate"] | parts["validation"] == set(texts)
    assert not parts["gate"] & parts["validation"]
    assert split_of(text) == split_of(f"  {text}\n")
