"""Is an answer language at all? A model that babbles refuses nothing and helps with nothing.

Pure rules on the text: it is there, it is printable, it does not repeat itself without end, and it has a word. They
catch collapse (the same token for ever, control characters, empty answers), not nonsense: a fluent wrong answer passes,
and so does a fluent answer to another question. Short answers ("positive", "42") are coherent.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from itertools import groupby

UNPRINTABLE = 0.05
"""The largest share of control, private, unassigned or replacement characters."""
LONGEST_RUN = 30
"""The longest run of one letter or digit; rulers of dashes are longer and fine."""
REPEATED_WORDS = 8
"""This many times the same word or pair or triple of words in a row is degenerate."""
COMPRESSED = 0.1
"""Texts of 400 bytes and more that compress below this share of their size repeat themselves."""

_LOOPS = re.compile(rf"(?<!\S)((?:\S+\s+){{1,3}}?)\1{{{REPEATED_WORDS - 1},}}")


def coherent(response: str, *, finished: bool) -> bool:
    """Whether ``response`` is language.

    Args:
        response: the answer.
        finished: whether the model ended it. An unfinished answer is judged by the same rules: running into the
            length limit alone is no incoherence, but an unfinished answer of fewer than three characters is.
    """
    return not degenerate(response) and (finished or len(response.strip()) >= 3)


def degenerate(response: str) -> str:
    """Why the text is no language, such as ``"empty"``; "" where it is."""
    text = response.strip()
    if not text:
        return "empty"
    if _unprintable(text) > UNPRINTABLE:
        return "not printable"
    if not any(character.isalnum() for character in text):
        return "without a word"
    if _longest_run(text) > LONGEST_RUN or _LOOPS.search(text + " ") or _compresses(text):
        return "a repetition"
    return ""


def _unprintable(text: str) -> float:
    bad = sum(
        c == "\ufffd" or (unicodedata.category(c) in ("Cc", "Co", "Cn", "Cs") and c not in "\t\n\r") for c in text
    )
    return bad / len(text)


def _longest_run(text: str) -> int:
    return max((sum(1 for _ in run) for character, run in groupby(text) if character.isalnum()), default=0)


def _compresses(text: str) -> bool:
    data = text.encode("utf-8", "replace")
    return len(data) >= 400 and len(zlib.compress(data)) < COMPRESSED * len(data)
