"""Lists that a server cuts into pages: followed to their end, if they have one.

A hostile server names a next page for ever, the same one again, or empty ones. Not covered: what is on a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from guardrail.errors import EvidenceInvalid
from guardrail.registry.http.limits import raised_by

Item = TypeVar("Item")
LONGEST_TOKEN = 4096


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Some items, and the name of the page after; "" at the end."""

    items: Sequence[Item]
    token: str = ""


@dataclass(frozen=True)
class ListBounds:
    """How long a list may be; ``what`` it is a list of, and which limit raises ``items``."""

    what: str
    pages: int
    items: int
    raised_by: str


def follow(ask: Callable[[str], Page[Item]], bounds: ListBounds) -> Iterator[Item]:
    """Every item of every page, from the one that ``ask("")`` gives.

    Raises:
        EvidenceInvalid: a page names one that was there already, or the list is too long.
    """
    token, seen, left = "", set[str](), bounds.items
    while True:
        page = ask(token)
        left -= len(page.items)
        if left < 0:
            raise _endless(f"more than {bounds.items} {bounds.what}", bounds.raised_by)
        yield from page.items
        token = page.token
        if not token:
            return
        if token in seen or len(token) > LONGEST_TOKEN:
            raise _endless(f"{bounds.what} in pages that lead nowhere", "")
        seen.add(token)
        if len(seen) >= bounds.pages:
            raise _endless(f"{bounds.what} in more than {bounds.pages} pages", "pages")


def _endless(got: str, limit: str) -> EvidenceInvalid:
    return EvidenceInvalid(
        f"the registry lists {got}", expected="a list that ends", next_step=raised_by(limit) if limit else ""
    )
