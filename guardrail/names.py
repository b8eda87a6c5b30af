"""Names as people and databases compare them: when two spellings are the same name, and which spellings are plain.

MySQL and MariaDB compare model names and aliases without case, some collations without accents, trailing spaces or
invisible characters (``utf8mb4_0900_ai_ci``, ``utf8mb4_general_ci``); a reader cannot tell a full-width letter from
another. Folding errs on the side of "the same": where it decides whether a name is guarded, that side is the safe one.
Two names may also be different to every database and yet look alike to a reader (one Cyrillic letter, another hyphen):
:func:`alike`. Length comes first everywhere: what folding costs grows with it, and no registry holds longer names.
Sources: Unicode Standard Annex 15 (NFKC) and section 5.18 (case folding), Technical Standard 39 (mixed scripts,
skeletons).

Not covered: what one database takes for the same beyond this (``gate/store/database_names.py`` asks it); words that
mean the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from guardrail.confusables import skeleton


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

LONGEST = 256
"""The most characters of a name: what MLflow's columns hold. A longer one is never folded."""

INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that show nothing (Default_Ignorable_Code_Point), besides the format characters (Cf)."""

LATIN = re.compile(
    r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL )?(?:DOTLESS )?(?P<letter>[A-Z]{1,2}|ETH)(?: WITH .+)?"
)
CONFUSED_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE"})


def folds(name: str) -> frozenset[str]:
    """Every folded form of a name: two names are the same to some database if these share one.

    More than one, because collations disagree on the sharp s: to one it is ``ss``, to another ``s``.
    Nothing is cached: the name may be a stranger's.

    Raises:
        ValueError: it is longer than any name.
    """
    if len(name) > LONGEST:
        raise ValueError(f"a name of {len(name)} characters; the longest has {LONGEST}")
    return frozenset({_fold(name), _fold(name.replace("\u00df", "s").replace("\u1e9e", "s"))})


def same(one: str, other: str) -> bool:
    """Whether some database or reader would take the two for one name; in doubt, where one is too long, yes."""
    if len(one) > LONGEST or len(other) > LONGEST:
        return True
    return not folds(one).isdisjoint(folds(other))


def position(name: str, known: tuple[str, ...]) -> int | None:
    """The index of the first of ``known`` that is the same as ``name``; of the first at all where it is too long.

    The known names are folded once and remembered, so they must come from whoever operates this, never from a client.
    """
    if len(name) > LONGEST:
        return 0 if known else None
    forms = _forms_of(known)
    return min((forms[form] for form in folds(name) if form in forms), default=None)


def alike(one: str, other: str) -> bool:
    """Whether a reader may take the two for one name: same, or made of characters that look the same."""
    return same(one, other) or not looks(one).isdisjoint(looks(other))


def looks(name: str) -> frozenset[str]:
    """What a name looks like, once with case as it is (``I`` is like ``l``) and once without: two names look alike if
    these share one.

    Raises:
        ValueError: it is longer than any name.
    """
    return frozenset(_fold(skeleton(form)) for form in {_shown(name), *folds(name)})


def look_alike(name: str, known: tuple[str, ...]) -> int | None:
    """The index of the first of ``known`` that looks like ``name``, as :func:`position`."""
    if len(name) > LONGEST:
        return 0 if known else None
    known_looks = _looks_of(known)
    return min((known_looks[look] for look in looks(name) if look in known_looks), default=None)


@lru_cache(maxsize=16)
def _forms_of(known: tuple[str, ...]) -> dict[str, int]:
    return _first(folds(name) for name in known)


@lru_cache(maxsize=16)
def _looks_of(known: tuple[str, ...]) -> dict[str, int]:
    return _first(looks(name) for name in known)


def _first(forms: Iterable[Iterable[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, several in enumerate(forms):
        for form in several:
            found.setdefault(form, index)
    return found


def repeated(names: Iterable[str]) -> dict[int, int]:
    """Index of every name that is the same as an earlier one, to the index of that one."""
    return _repeated(folds(name) for name in names)


def repeated_looks(names: Iterable[str]) -> dict[int, int]:
    """Index of every name that is the same as an earlier one or looks like it, to the index of that one."""
    return _repeated(looks(name) for name in names)


def _repeated(forms: Iterable[frozenset[str]]) -> dict[int, int]:
    seen: dict[str, int] = {}
    found: dict[int, int] = {}
    for index, several in enumerate(forms):
        first = min((seen[form] for form in several if form in seen), default=None)
        if first is not None:
            found[index] = first
        for form in several:
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


def _shown(name: str) -> str:
    """Without what does not show; white space is folded later."""
    return name if _is_simple(name) else "".join(char for char in name if not _hidden(char) or char.isspace())


def _is_simple(name: str) -> bool:
    """Printable ASCII, which nearly every name is: nothing in it has another form than its case."""
    return name.isascii() and name.isprintable()


def _fold(name: str) -> str:
    if _is_simple(name):
        return " ".join(name.lower().split()).rstrip(". ")
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
