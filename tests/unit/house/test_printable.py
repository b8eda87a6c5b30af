"""What comes from outside is shown and never obeyed: the pure functions, errors, log lines, reports, and who prints."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from decisions import passing
from hostile_text import ALL, FORGED, SPELLINGS, leaves, obeyed, with_hostile
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from repository import ROOT

from guardrail import logs
from guardrail.errors import GuardrailError, InternalError
from guardrail.printable import LONGEST_LINE, MOST_LINES, block, joined, json_text, markdown_text, one_line, quoted
from guardrail.report import html, markdown

LINES = (one_line, markdown_text)
TEXTS = (*LINES, quoted, lambda text: joined([text]), lambda text: GuardrailError("a", next_step=text).message())
PRINTS = re.compile(
    r"(click|termui)\.(echo|secho|echo_via_pager|prompt|confirm|pause)|print|.*\.print|(.*\.)?print_exc(eption)?"
    r"|.*(stdout|stderr)\.(write|buffer\.write)|os\.write|(warnings\.)?warn|error\.show"
)
DOORS = {"guardrail/commands/_output.py"}
hostile = pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)


@hostile
def test_nothing_hostile_is_left_to_obey(text: str) -> None:
    assert [show(text) for show in TEXTS if obeyed(show(text))] == []
    assert [show(text) for show in LINES if "\n" in show(text)] == []
    assert not joined([text, text]).count("\n") > 1


@given(st.text(st.characters(), max_size=60))
def test_whatever_the_text_is_it_is_shown_and_shown_again_the_same(text: str) -> None:
    for show in (one_line, block, quoted, json_text):
        once = show(text)
        assert not [line for line in once.split("\n") if not line.replace("\t", "").isprintable()]
        assert show(once) == once


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="#:"), max_size=60))
def test_what_a_terminal_only_shows_stays_as_it_is(text: str) -> None:
    assert one_line(text) == block(text) == quoted(text) == json_text(text) == text


@given(st.recursive(st.text(st.characters(exclude_categories=["Cs"])), st.lists, max_leaves=8))
def test_json_keeps_its_value(value: object) -> None:
    printed = json_text(json.dumps(value, ensure_ascii=False))
    assert json.loads(printed) == value
    assert not obeyed(printed.replace("FORGED", ""))


def test_json_that_hides_nothing_keeps_its_bytes() -> None:
    text = '{"a":"Zoë 安全 # ## \\u001b \\\\"}'
    assert json_text(text) == text


def test_escapes_say_which_character_was_there() -> None:
    assert one_line("a\x1b[2J\u202e\n\t\U000e0041") == r"a\x1b[2J\u202e\n\t\U000e0041"
    assert block("a\n ::error::b") == "a\n \\x3a:error::b"
    assert one_line("##vso[x] ##[y] # ## [z]") == r"\x23#vso[x] \x23#[y] # ## [z]"


def test_a_long_text_says_how_much_is_missing() -> None:
    assert len(one_line("x" * 10 * LONGEST_LINE)) == LONGEST_LINE
    assert one_line("x" * 10 * LONGEST_LINE).endswith(f"… {10 * LONGEST_LINE} characters")
    assert quoted("x\n" * 1000).count("\n") == MOST_LINES - 1
    assert quoted("x\n" * 1000).endswith("941 more lines")


@hostile
def test_an_error_shows_a_foreign_text_as_foreign(text: str) -> None:
    error = InternalError(f"the server says {text}", expected=text, next_step=text)
    again = InternalError(f"--live-uri: {error.got}", expected=error.expected)
    assert not obeyed(error.message())
    assert not obeyed(str(error))
    assert not obeyed(again.message())
    assert not [
        line for line in error.message().split("\n")[1:] if not line.startswith(("  expected: ", "  next: ", "  | "))
    ]


@hostile
def test_a_log_line_is_one_whatever_it_quotes(text: str, caplog: pytest.LogCaptureFixture) -> None:
    logs.logger("guardrail.test").error("the model %s: %s", text, text)
    assert not obeyed(caplog.messages[-1])
    record = logging.LogRecord("other", logging.ERROR, "f", 1, "%s", (text,), None)
    assert not [
        line for line in logs.PrintableFormatter("%(message)s").format(record).split("\n") if not line.isprintable()
    ]


def _spoiled(record: BaseModel, chosen: int, text: str) -> Any:
    """The record with one of its texts spoiled, whether its type allows that or not: another release's type may."""
    data = with_hostile(record.model_dump(mode="python"), chosen, text)
    return _built(type(record), data)


def _built(kind: type[BaseModel], data: dict[str, Any]) -> Any:
    fields = {}
    for name, field in kind.model_fields.items():
        if name not in data:  # left out where it says nothing
            continue
        inner = next(
            (
                one
                for one in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if isinstance(one, type) and issubclass(one, BaseModel)
            ),
            None,
        )
        value = data[name]
        if inner is not None and isinstance(value, dict):
            value = _built(inner, value)
        elif inner is not None and isinstance(value, list | tuple):
            value = tuple(_built(inner, one) for one in value)
        fields[name] = value
    return kind.model_construct(**fields)


def test_no_report_carries_anything_from_any_field_of_any_record() -> None:
    decision, evidence = passing()
    for number in range(leaves(decision.model_dump())):
        bad = _spoiled(decision, number, ALL)
        assert not obeyed(markdown.render(bad, evidence)), number
        assert not obeyed(html.render(bad, evidence)), number
    for name in ("data", "adapter", "evaluation"):
        record = getattr(evidence, name)
        for number in range(leaves(record.model_dump())):
            bad_evidence = evidence.model_copy(update={name: _spoiled(record, number, ALL)})
            assert not obeyed(markdown.render(decision, bad_evidence)), (name, number)
            assert not obeyed(html.render(decision, bad_evidence)), (name, number)


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://evil.example/p.png)",
        "[x](javascript:alert(1))",
        "<img src=x>",
        "<!-- x",
        "&lt;b&gt;",
        "`x` ``y``",
        "a | b",
        "@everyone",
        "#1",
        "www.evil.example",
        "https://evil.example",
        "a@evil.example",
        "*a* _b_ ~c~",
        "- item",
        "+ item",
        "1. item",
        "=== ",
        "> quote",
        "# head",
        "a\n\n# head",
        "\\",
        "[^1]: note",
        "$x$",
    ],
)
def test_markdown_of_a_value_is_that_text_and_nothing_else(text: str) -> None:
    """Read with a CommonMark reader that knows tables, autolinks and footnotes."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("gfm-like", {"linkify": False, "html": True}).enable("table")
    inline = reader.parse(f"{markdown_text(text)}\n")
    kinds = {token.type for token in inline} | {child.type for token in inline for child in token.children or ()}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "html_inline"}
    shown = "".join(c.content for t in inline for c in t.children or () if c.type.startswith("text"))
    assert shown == one_line(text).strip()
    assert {c.content for t in inline for c in t.children or () if c.type == "html_inline"} <= {"<!-- -->"}
    assert "www.evil" not in markdown_text(text)
    assert "@e" not in markdown_text(text)


def _calls(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= {name} if PRINTS.fullmatch(name) or name == "logging.getLogger" else set()
        elif isinstance(node, ast.ImportFrom) and node.module in ("click", "rich", "sys"):
            found |= {f"from {node.module} import {name.name}" for name in node.names}
    return found


def test_only_the_door_prints() -> None:
    """What prints past ``commands/_output.py`` prints what comes from outside as it came."""
    files = {str(path.relative_to(ROOT)): _calls(path) for path in sorted((ROOT / "guardrail").rglob("*.py"))}
    prints = {name: calls - {"logging.getLogger"} for name, calls in files.items()}
    assert {name for name, calls in prints.items() if calls} == DOORS


def test_loggers_of_ours_are_made_by_logs() -> None:
    """Others silence libraries that they call."""
    own = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "guardrail").rglob("*.py")
        if "logging.getLogger" in _calls(path)
    }
    assert own == {
        "guardrail/logs.py",
        "guardrail/commands/_output.py",
        "guardrail/registry/mlflow/mlflow_client.py",
        "guardrail/data/expectations.py",
    }


def test_the_line_that_is_forged_is_one_that_we_print() -> None:
    """Else the tests above would look for what cannot be there."""
    assert FORGED in "".join(SPELLINGS.values())
    assert obeyed(FORGED)
    assert all(obeyed(text) or name in ("Markdown",) for name, text in SPELLINGS.items())
