"""Flags requests that are near-duplicates of known harmful requests.

MinHash with locality-sensitive hashing finds candidates (Broder 1997, On the Resemblance and Containment of
Documents; datasketch); the exact Jaccard similarity of their shingles decides, so hashing can miss but never accuse.
Shingles are overlapping runs of characters of the normalised text: one changed word in a sentence leaves most of them.

The threshold is at least ``FLOOR`` and rises until at most 1% of the known benign requests would be flagged: where
benign requests share their phrasing with harmful ones, only closer copies count. The answer plays no part: opening an
answer with a refusal does not hide the request, and honest refusals of known requests are flagged too.

Not covered: paraphrases, translations, encodings and any harmful request that is not in the list.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from guardrail.data.detectors import Context, Flag
from guardrail.errors import InvalidInput
from guardrail.samples import Sample

SOURCE = "Broder 1997, On the Resemblance and Containment of Documents (MinHash LSH)"
FLOOR = 0.7
FALSE_POSITIVE_RATE = 0.01
SHINGLE = 5
PERMUTATIONS = 128
CANDIDATES_FROM = 0.5

_NOT_WORD = re.compile(r"[^\w]+")


def detect(samples: Sequence[Sample], context: Context) -> Iterable[Flag]:
    """Samples with a reading more similar to a known harmful request than the threshold (Jaccard, 0 to 1)."""
    index, least = _index(context), threshold(context)
    texts = dict.fromkeys(text for sample in samples for text in sample.readings)  # a system prompt recurs in every row
    nearest = {text: index.nearest(text) for text in texts}
    for sample in samples:
        score = max((nearest[text] for text in sample.readings), default=0.0)
        if score > least:
            reason = f"request is a near-duplicate of a known harmful request (Jaccard {score:.2f} > {least:.2f})"
            yield Flag(sample_id=sample.id, score=score, reason=reason)


def threshold(context: Context) -> float:
    """``FLOOR``, or the similarity that 1% of the known benign requests exceed, whichever is higher."""
    index = _index(context)
    scores = sorted((index.nearest(text) for text in context.known_benign), reverse=True)
    allowed = math.floor(FALSE_POSITIVE_RATE * len(scores))
    return max(FLOOR, scores[allowed]) if scores else FLOOR


def shingles(text: str) -> frozenset[str]:
    """Runs of ``SHINGLE`` characters of the normalised text; a shorter text is one shingle."""
    plain = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    padded = f" {plain} "
    return (
        frozenset(padded[i : i + SHINGLE] for i in range(max(1, len(padded) - SHINGLE + 1))) if plain else frozenset()
    )


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared elements over all elements; 0.0 where both sets are empty."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


@dataclass(frozen=True, eq=False)
class _Index:
    known: tuple[frozenset[str], ...]
    lsh: Any

    def nearest(self, text: str) -> float:
        """The highest Jaccard similarity to a candidate; 0.0 where there is none."""
        found = shingles(text)
        if not found:
            return 0.0
        keys: list[int] = self.lsh.query(_minhash(found))
        return max((jaccard(found, self.known[key]) for key in keys), default=0.0)


_INDICES: WeakKeyDictionary[Context, _Index] = WeakKeyDictionary()


def _index(context: Context) -> _Index:
    if context not in _INDICES:
        _INDICES[context] = _build(context.known_harmful)
    return _INDICES[context]


def _build(texts: Iterable[str]) -> _Index:
    from datasketch import MinHashLSH

    known = tuple(_distinct(texts))
    if not known:
        raise InvalidInput(
            "known_harm has no known harmful request",
            expected="at least one",
            next_step="name a suite of harmful requests as anchors, or leave the detector out",
        )
    lsh = MinHashLSH(threshold=CANDIDATES_FROM, num_perm=PERMUTATIONS)
    for key, found in enumerate(known):
        lsh.insert(key, _minhash(found))
    return _Index(known, lsh)


def _distinct(texts: Iterable[str]) -> Iterator[frozenset[str]]:
    yield from dict.fromkeys(found for text in texts if (found := shingles(text)))


def _minhash(found: frozenset[str]) -> Any:
    from datasketch import MinHash

    minhash = MinHash(num_perm=PERMUTATIONS, seed=1)
    minhash.update_batch([shingle.encode() for shingle in found])
    return minhash
