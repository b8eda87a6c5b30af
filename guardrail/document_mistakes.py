"""Mistakes in a written document, in words: where it stands, what is wrong, and what may have been meant.

Does not cover finding them (``policy/load.py``, ``evidence/trust/trust_yaml.py``), nor mistakes of YAML
(``yaml_document.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from guardrail.plugins import suggestion
from guardrail.printable import joined
from guardrail.yaml_document import Document
from guardrail.yaml_document import Path as Place

Sections = Mapping[tuple[str, ...], type[BaseModel]]
"""Which type reads which mapping; ``*`` stands for any name and any number."""

PLAIN_WORDS = {
    "missing": "is missing",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


@dataclass(frozen=True)
class Mistake:
    """One of them; ``on_key`` where the key is wrong and not its value."""

    place: Place
    text: str
    on_key: bool = False


def from_pydantic(detail: ErrorDetails, prefix: Place, known: tuple[str, ...]) -> Mistake:
    """pydantic's words in ours."""
    place = (*prefix, *(part for part in detail["loc"] if part != "[key]"))
    name = place[-1] if place else "document"
    if detail["type"] == "extra_forbidden":
        return Mistake(place, f"unknown key {name!r}: {hint(str(name), known)}", on_key=True)
    said = PLAIN_WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = f", got {detail['input']!r:.60}" if isinstance(detail["input"], str | int | float | bool) else ""
    return Mistake(place, f"{_dotted(place)} {said}{got}", on_key="[key]" in detail["loc"])


def known_keys(place: tuple[str | int, ...], sections: Sections) -> tuple[str, ...]:
    """The keys that the section around ``place`` knows."""
    parent = tuple(str(part) for part in place[:-1])
    for pattern, section in sections.items():
        if len(pattern) == len(parent) and all(want in ("*", part) for want, part in zip(pattern, parent, strict=True)):
            return tuple(section.model_fields)
    return ()


def hint(name: str, known: tuple[str, ...]) -> str:
    """What may have been meant, or all there is."""
    return suggestion(name, known) or one_of(known)


def one_of(known: tuple[str, ...]) -> str:
    """``expected one of a, b``."""
    return "expected one of " + ", ".join(known) if known else "there is none"


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place) or "the document"


def mistake_lines(document: Document, mistakes: list[Mistake]) -> str:
    """All of them, one a line, in the order of the file."""

    def position(mistake: Mistake) -> tuple[int, ...]:
        return tuple(int(part) for part in _where(document, mistake).rsplit(":", 2)[1:])

    return joined(f"{_where(document, mistake)}: {mistake.text}" for mistake in sorted(mistakes, key=position))


def _where(document: Document, mistake: Mistake) -> str:
    return document.where(mistake.place, key=mistake.on_key)
