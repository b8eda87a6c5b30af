"""Finds and compares numbers in text."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-\u2212]?\.\d+")


def numbers(text: str) -> list[Decimal]:
    """Every number in ``text`` in order; thousands separators are dropped, a minus belongs to a number it touches.

    A minus between two numbers or after a word (``7-3``, ``x-3``) is an operator or a hyphen, not a sign.
    """
    found = []
    for match in _NUMBER.finditer(text):
        value = number(match.group())
        before = text[match.start() - 1] if match.start() else " "
        if value is not None:
            found.append(abs(value) if before.isalnum() or before == ")" else value)
    return found


def number(text: str) -> Decimal | None:
    """The number that ``text`` is, or None."""
    plain = text.strip().replace(",", "").replace("\u2212", "-").lstrip("$").rstrip("%.")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
