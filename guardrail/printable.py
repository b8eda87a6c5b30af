r"""Text from outside as a terminal, a CI log or a Markdown page may show it: seen by people, obeyed by nothing.

A model's name, a server's error or a cell of a data set may carry escape sequences (CWE-150: they clear the screen,
rename the window, forge a line), bidirectional overrides ("Trojan Source", CVE-2021-42574), or *workflow commands*,
which runners read in what a job prints: GitHub Actions obeys a line that begins with ``::``, after white space, and
``##[`` anywhere, Azure Pipelines ``##vso[``, TeamCity ``##teamcity[``, GitLab ``section_start`` and Jenkins its
console notes, both behind an ESC. What could be obeyed is written as an escape of Python: ``\x1b``, ``\u202e``.

Every function here may be applied again to its own result, so a value is safe however many doors it passes. A literal
backslash stays, so ``\x1b`` may be an escape or four characters that were there: who must know reads the JSON.

Not covered: letters that look like others, invisible letters (a Hangul filler is a letter), and a runner's own
patterns for errors. HTML is escaped by its template (``report/html.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST_LINE = 8000
"""Characters of one line; longer ones say how much is missing."""
MOST_LINES = 60
"""Lines of one foreign text within a message."""
MARK = "  | "
"""Begins every further line of a foreign text, so that none can pass for one of ours."""
COMMAND = re.compile(r"#(?=#[\w.]*\[)")
LINE_COMMAND = re.compile(r"^(\s*):(?=:)")
MARKDOWN = re.compile(r"[\\`*_{}\[\]()#!|~:@<>&]|(?<=www)\.|(?<=\d)\.(?=\s)|^[-+=]", re.IGNORECASE)
MARKDOWN_AS = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@<!-- -->", "#": "\\#<!-- -->"}
"""An empty comment parts ``@`` and ``#`` from the word after them: GitHub looks for mentions in the rendered text."""


class Lines(str):
    """Lines of ours, each made printable already: within a message none of them is a foreign text's."""


def one_line(text: str) -> str:
    """A value in one line: line breaks and tabs are written out, too."""
    return _line(text)


def joined(lines: Iterable[str]) -> Lines:
    """Exactly these lines, whatever the values within them hold: none can add a line or begin a command."""
    return Lines("\n".join(map(one_line, lines)))


def block(text: str) -> str:
    """The same lines, tabs kept: for a text whose line breaks are meant, such as a message or a traceback."""
    return "\n".join(_line(line, "\t") for line in text.split("\n"))


def quoted(text: str) -> str:
    """A foreign text of several lines within a message of ours: every line but the first is marked as its."""
    if isinstance(text, Lines):
        return text
    first, *more = block(text.rstrip("\n")).split("\n")
    if len(more) >= MOST_LINES:
        more = [*more[: MOST_LINES - 2], f"… {len(more) - MOST_LINES + 2} more lines"]
    return "\n".join([first, *(line if line.startswith(MARK) else MARK + line for line in more)])


def json_text(text: str, encoding: str = "utf-8") -> str:
    r"""The same JSON value without a character that is not shown, or that the encoding lacks.

    Those stand in its strings alone, as ``\uXXXX``.
    """
    shown = text if _printable(text, "\n") else "".join(map(_json_escape, text))
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        shown = "".join(char if char.isascii() else _json_units(char) for char in shown)
    return COMMAND.sub(r"\\u0023", shown)


def markdown_text(text: str) -> str:
    """One line of Markdown text in which no character means anything to Markdown, to HTML or to GitHub."""
    return MARKDOWN.sub(lambda found: MARKDOWN_AS.get(found[0], f"\\{found[0]}"), one_line(text).strip())


def _line(text: str, kept: str = "") -> str:
    shown = text if _printable(text, kept) else "".join(_escape(char, kept) for char in text)
    return _cut(LINE_COMMAND.sub(r"\1\\x3a", COMMAND.sub(r"\\x23", shown)))


def _escape(char: str, kept: str) -> str:
    return char if char.isprintable() or char in kept else ascii(char)[1:-1]


def _printable(text: str, kept: str) -> bool:
    return text.isprintable() or all(char.isprintable() or char in kept for char in text)


def _json_escape(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    return _json_units(char)


def _json_units(char: str) -> str:
    units = char.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _cut(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    end = f"… {len(line)} characters"
    return line[: LONGEST_LINE - len(end)] + end
