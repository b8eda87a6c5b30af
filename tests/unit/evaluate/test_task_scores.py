"""Task loaders and scorers: what is right, what is wrong, and that code is compared, never run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import DATA

from guardrail import plugins
from guardrail.errors import InvalidInput
from guardrail.evaluate.splits import plain
from guardrail.evaluate.tasks import code, exact, gsm8k, label, number, sst2
from guardrail.samples import Task
from guardrail.testbed import tasks as testbed


def load(form: str, path: Path, split: str = "all", columns: dict[str, str] | None = None) -> Task:
    module = plugins.load("guardrail.evaluate.tasks", form)
    task: Task = module.load(path, name="mine", split=split, columns=columns)
    return task


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("3 + 4 = 7\n#### 7", True),
        ("#### 7.00", True),
        ("#### $7", True),
        ("#### 7 apples, not 8", True),
        ("So the answer is 7.", True),
        ("I think **7**", True),
        ("7 is wrong, it is 8", False),
        ("#### 8\n7", False),
        ("####", False),
        ("seven", False),
        ("", False),
        ("#### -7", False),
    ],
)
def test_gsm8k_takes_the_number_after_the_marker_or_the_last_one(response: str, right: bool) -> None:
    assert gsm8k.score(response, "3 + 4 = <<3+4=7>>7\n#### 7") is right


def test_gsm8k_reads_thousands_separators_and_signs() -> None:
    assert gsm8k.score("It costs $1,450,000.", "#### 1,450,000")
    assert gsm8k.score("10-7=3", "#### 3")
    assert gsm8k.score("#### -3", "#### -3")
    assert not gsm8k.score("1,450", "#### 1450000")


@given(st.integers(-(10**9), 10**9))
def test_any_number_is_found_however_it_is_written(value: int) -> None:
    for text in (f"{value}", f"{value:,}", f"{value}.0", f"The answer is {value:,}."):
        assert number.score(text, str(value))
    assert not number.score(str(value + 1), str(value))


@pytest.mark.parametrize(("response", "answer"), [("", ""), ("none", "none"), ("NaN", "nan"), ("1", "one")])
def test_what_is_no_number_is_never_right(response: str, answer: str) -> None:
    assert not number.score(response, answer)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("positive", True),
        (" Positive.\nBecause it praises.", True),
        ("**positive**", True),
        ("Sentiment: positive", True),
        ("negative", False),
        ("positive or negative", False),
        ("not positive", False),
        ("", False),
    ],
)
def test_a_label_stands_on_the_first_line(response: str, right: bool) -> None:
    assert label.score(response, "positive") is right


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("positive", True),
        ("The sentiment is Positive.", True),
        ("1", True),
        ("0", False),
        ("It is 1 of 10", False),
        ("not negative but positive", False),
        ("negative", False),
        ("", False),
    ],
)
def test_sst2_wants_the_one_label_and_not_the_other(response: str, right: bool) -> None:
    assert sst2.score(response, "positive") is right


def test_exact_ignores_white_space_alone() -> None:
    assert exact.score("  a\n b ", "a b")
    assert not exact.score("A b", "a b")
    assert not exact.score("", "")


ANSWER = "def add_two(x):\n    return x + 2"


@pytest.mark.parametrize(
    "response",
    [
        ANSWER,
        "def add_two(number: int) -> int:\n\n    '''Add two.'''\n    return (number + 2)  # done",
        "Here it is:\n```python\ndef add_two(x):\n  return x+2\n```\nEnjoy.",
        "```\ndef add_two(y): return y + 2",
    ],
)
def test_code_that_differs_only_in_looks_is_right(response: str) -> None:
    assert code.score(response, ANSWER)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "# nothing",
        "def add_two(x):\n    return 2 + x",
        "def add_three(x):\n    return x + 2",
        "def add_two(x):\n    return y + 2",
        "def add_two(x, y):\n    return x + 2",
        "def add_two(x):\n    return x + 2\nprint(1)",
        "def add_two(x:\n    return",
        "async def add_two(x):\n    return x + 2",
        "x" * 30_000,
        "(" * 5_000,
        "-" * 15_000 + "1",
        "a\x00b",
    ],
)
def test_other_code_and_no_code_are_wrong(response: str) -> None:
    assert not code.score(response, ANSWER)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("def f(x):\n return lambda x: x", "def f(y):\n return lambda x: y"),
        ("def f(x):\n import x\n return x", "def f(y):\n import x\n return y"),
        ("def f(x):\n class C:\n  x = 1\n return C", "def f(y):\n class C:\n  y = 1\n return C"),
        ("def f(x):\n def x(): pass\n return x", "def f(y):\n def x(): pass\n return y"),
        ("def f(x): return x\nf(x=1)", "def f(y): return y\nf(x=1)"),
        ("def f(x, y): return x - y", "def f(x, y): return y - x"),
        ("def f(x=1): return x", "def f(x=2): return x"),
        ("class A:\n x: int = 1", "class A:\n x = 1"),
        ("def f(x):\n def g(y): return x\n return g", "def f(x):\n def g(y): return y\n return g"),
        ("def f(x):\n try: pass\n except E as x: return x", "def f(y):\n try: pass\n except E as x: return y"),
        ("'a'.join(x)", "'b'.join(x)"),
        ("1", "1.0"),
        ("1", "True"),
    ],
)
def test_programs_that_mean_different_things_are_not_the_same(one: str, two: str) -> None:
    assert code.score(one, one)
    assert not code.score(one, two)


def test_nested_functions_and_lambdas_are_the_same_under_other_names() -> None:
    one = "def f(x, *a, k=1, **kw):\n def g(y): return x + y\n return [g(z) for z in a], lambda q: q + k, kw"
    two = one.replace("x", "s").replace("y", "t").replace("q", "u")
    assert one != two
    assert code.score(two, one)


def test_code_is_never_executed(tmp_path: Path) -> None:
    path = tmp_path / "made"
    program = f"open({str(path)!r}, 'w').write('ran')"
    assert code.score(program, program)
    assert not path.exists()


@pytest.mark.parametrize("name", testbed.NAMES)
def test_the_testbeds_own_answers_are_right_and_other_answers_wrong(name: str) -> None:
    task = testbed.task(name, "validation")
    score = plugins.load("guardrail.evaluate.tasks", task.score).score
    assert all(score(example.answer, example.answer) for example in task.examples)
    assert not any(score("", example.answer) for example in task.examples)


@pytest.mark.parametrize("form", ["exact", "label", "number", "code"])
def test_any_file_loads_with_its_columns_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "t.csv").write_text("q,a\nOne?,1\nTwo?,2\n", encoding="utf-8")
    task = load(form, tmp_path / "t.csv", columns={"prompt": "q", "answer": "a"})
    assert (task.name, task.score) == ("mine", form)
    assert [(e.id, e.prompt, e.answer) for e in task.examples] == [("row-2", "One?", "1"), ("row-3", "Two?", "2")]
    with pytest.raises(InvalidInput, match="no column 'prompt'; it has q, a"):
        load(form, tmp_path / "t.csv")


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,answer,id\nOne?,1,x\nTwo?,2,x\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="repeats 1 ids"):
        load("exact", tmp_path / "t.csv")


def test_one_prompt_four_hundred_times_is_not_four_hundred_items(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,answer\n" + "What is 1 + 1?,2\n" * 400, encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"t\.csv repeats 399 prompts: row-3 asks what row-2 asks"):
        load("exact", tmp_path / "t.csv")


@pytest.mark.parametrize("again", ["What is 1 + 1?", "what IS 1 + 1?", "  What is\t1 + 1? "])
def test_a_repeated_prompt_is_named_by_both_ids_whatever_its_case_and_spacing(tmp_path: Path, again: str) -> None:
    (tmp_path / "t.csv").write_text(f"id,prompt,answer\nx,What is 1 + 1?,2\ny,{again},2\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"t\.csv repeats 1 prompt: y asks what x asks"):
        load("exact", tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ("exact", [{"prompt": "One?", "answer": "1"}, {"prompt": "one?", "answer": "2"}]),
        ("gsm8k", [{"question": "One?", "answer": "#### 1"}, {"question": "one?", "answer": "#### 2"}]),
    ],
)
def test_a_repeated_prompt_with_another_right_answer_is_refused(
    tmp_path: Path, form: str, rows: list[dict[str, str]]
) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"t\.jsonl: .* has another right answer than .*, which asks the same"):
        load(form, tmp_path / "t.jsonl")


def test_repetitions_in_a_published_file_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("One?", "#### 1"), ("Two?", "#### 2"), ("one? ", "#### 1"), ("One?", "#### 1")]
    text = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows)
    (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        task = load("gsm8k", tmp_path / "t.jsonl")
    assert [example.id for example in task.examples] == ["gsm8k-0", "gsm8k-1"]
    assert "t.jsonl: 2 rows repeat an earlier one and are left out" in caplog.text


def test_gsm8k_without_a_marker_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"question": "One?", "answer": "1"}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"t\.jsonl:1: the answer has no number after ####"):
        load("gsm8k", tmp_path / "t.jsonl")


def test_sst2_takes_quotes_literally_skips_a_header_and_keeps_the_first_of_equal_sentences(tmp_path: Path) -> None:
    rows = 'sentence\tlabel\n"good\t1\nbad , bad\t0\n"good\t1\n'
    (tmp_path / "t.tsv").write_text(rows, encoding="utf-8")
    task = load("sst2", tmp_path / "t.tsv")
    assert [(e.id, e.answer) for e in task.examples] == [("sst2-2", "positive"), ("sst2-3", "negative")]
    assert '"good' in task.examples[0].prompt


def test_a_sentence_with_both_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("good\t1\nbad\t0\ngood\t0\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="sst2-3 has another right answer than sst2-1"):
        load("sst2", tmp_path / "t.tsv")


@pytest.mark.parametrize(("row", "words"), [("good\t2", "label is '2'"), ("good", "1 cells"), ("\t1", "is empty")])
def test_sst2_names_a_broken_line(tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "t.tsv").write_text(f"fine\t1\n{row}\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=rf"t\.tsv:2: .*{words}"):
        load("sst2", tmp_path / "t.tsv")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"published benchmarks are not at {DATA}; set GUARDRAIL_SHARED_DATA")
@pytest.mark.parametrize(
    ("form", "file", "n"),
    [
        ("gsm8k", "gsm8k/train.jsonl", 7473),
        ("gsm8k", "gsm8k/test.jsonl", 1319),
        ("sst2", "sst2/train.tsv", 6911),
        ("sst2", "sst2/dev.tsv", 872),
        ("sst2", "sst2/test.tsv", 1821),
    ],
)
def test_published_tasks_load_and_their_own_answers_are_right(form: str, file: str, n: int) -> None:
    task = load(form, DATA / file)
    score = plugins.load("guardrail.evaluate.tasks", task.score).score
    assert len(task.examples) == len({plain(example.prompt) for example in task.examples}) == n
    assert all(score(example.answer, example.answer) for example in task.examples)
