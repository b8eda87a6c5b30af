"""Which texts look alike: the skeleton of Unicode Technical Standard 39 (revision 32, section 4).

``confusables.txt`` beside this file is Unicode's own table, reduced to what is needed; its head says where it is from
and under which licence. Two texts that look alike to a reader have one skeleton; a skeleton is for comparing only.
Not covered: case, accents and what does not show (``names.py`` folds them first), right-to-left layout, fonts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from guardrail.errors import InternalError

TABLE = Path(__file__).with_suffix(".txt")
MAPPINGS = 6565
"""How many the table has: a shorter one would let some look-alikes through."""


def skeleton(text: str) -> str:
    """The text with every character replaced by its prototype; characters that do not show should be gone already.

    Raises:
        InternalError: the table is not whole.
    """
    table = prototypes()
    shown = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFD", "".join(table.get(char, char) for char in shown))


@cache
def prototypes() -> Mapping[str, str]:
    """What each confusable character is taken for; read once.

    Raises:
        InternalError: the table is not whole.
    """
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(";") for line in lines if line and not line.startswith("#"))
    table = {_text(source): _text(target) for source, target in pairs}
    if len(table) != MAPPINGS:
        raise InternalError(f"{TABLE} has {len(table)} mappings, not {MAPPINGS}: guardrail is not installed whole")
    return MappingProxyType(table)


def _text(code_points: str) -> str:
    return "".join(chr(int(point, 16)) for point in code_points.split())
