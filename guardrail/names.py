"""Names as people and databases compare them: when two spellings are the same name, and which spellings are plain.

MySQL and MariaDB compare model names and aliases without case, some collations without accents, trailing spaces or
invisible characters (``utf8mb4_0900_ai_ci``, ``utf8mb4_general_ci``); a reader cannot tell a full-width letter from
another. Folding errs on the side of "the same": where it decides whether a name is guarded, that side is the safe one.
Sources: Unicode Standard Annex 15 (NFKC) and section 5.18 (case folding), Technical Standard 39 (mixed scripts).

Not covered: names wholly of look-alikes in another script (all-Cyrillic for all-Latin): another name to a database.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _not_reserved(value: str) -> str:
    """MLflow reserves ``latest`` and everything that reads like a version."""
    lowered = value.lower()
    if lowered == "latest" or (lowered[:1] == "v" and lowered[1:].isdigit()):
        raise ValueError("MLflow reserves this alias")
    return value


ModelName = Annotated[str, StringConstraints(pattern=r"^[^/:\s\x00-\x1f][^/:\x00-\x1f]*$", max_length=256)]
Alias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=100), AfterValidator(_not_reserved)
]

INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that show nothing (Default_Ignorable_Code_Point), besides the format characters (Cf)."""

LATIN = re.compile(
    r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL )?(?:DOTLESS )?(?P<letter>[A-Z]{1,2}|ETH)(?: WITH .+)?"
)
CONFUSED_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE"})


@lru_cache(maxsize=4096)
def folds(name: str) -> frozenset[str]:
    """Every folded form of a name: two names are the same to some database if these share one.

    More than one, because collations disagree on the sharp s: to one it is ``ss``, to another ``s``.
    """
    return frozenset({_fold(name), _fold(name.replace("\u00df", "s").replace("\u1e9e", "s"))})


def same(one: str, other: str) -> bool:
    """Whether some database or reader would take the two for one name."""
    return not folds(one).isdisjoint(folds(other))


def repeated(names: Iterable[str]) -> dict[int, int]:
    """Index of every name that is the same as an earlier one, to the index of that one."""
    seen: dict[str, int] = {}
    found: dict[int, int] = {}
    for index, name in enumerate(names):
        forms = folds(name)
        first = min((seen[form] for form in forms if form in seen), default=None)
        if first is not None:
            found[index] = first
        for form in forms:
            seen.setdefault(form, index)
    return found


def not_plain(name: str) -> str:
    """Why a name may be mistaken for another, in words; empty where it is plain."""
    if not _fold(name) or name != name.strip() or name.endswith("."):
        return "is empty, or begins or ends with a space or ends with a dot"
    if unicodedata.normalize("NFKC", name) != name:
        return f"has a plainer spelling (NFKC): {unicodedata.normalize('NFKC', name)!a}"
    hidden = [char for char in name if _hidden(char)]
    if hidden:
        return f"holds a character that does not show: U+{ord(hidden[0]):04X}"
    scripts = {_script(char) for char in name if char.isalpha()} & CONFUSED_SCRIPTS
    if len(scripts) > 1:
        return f"mixes letters that look alike ({', '.join(sorted(script.title() for script in scripts))})"
    return ""


def _hidden(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind[0] == "C" or (kind[0] == "Z" and char != " ") or INVISIBLE.match(char) is not None


def _fold(name: str) -> str:
    shown = "".join(char for char in unicodedata.normalize("NFKD", name) if not _dropped(char))
    text = "".join(_base(char) for char in shown.casefold())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(". ")


def _dropped(char: str) -> bool:
    """Accents and what does not show; white space is folded later."""
    return unicodedata.combining(char) > 0 or (_hidden(char) and not char.isspace())


def _base(char: str) -> str:
    """The Latin letter below a stroke, hook or the like: collations without accents do not tell them apart."""
    found = LATIN.fullmatch(unicodedata.name(char, ""))
    if char.isascii() or found is None:
        return "" if unicodedata.combining(char) else char
    letter = found["letter"].lower()
    return "d" if letter == "eth" else letter


def _script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0]
