"""Names: what a database or a reader takes for the same is the same here, or looks like it."""

from __future__ import annotations

import string
import sys
import tracemalloc
import unicodedata
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail import confusables
from guardrail.confusables import prototypes, skeleton
from guardrail.errors import InternalError
from guardrail.names import (
    LONGEST,
    alike,
    folds,
    look_alike,
    looks,
    not_plain,
    position,
    repeated,
    repeated_looks,
    same,
)

TRICKS = {
    "case": ("guarded", "GuArDeD"),
    "full-width letters": ("guarded", "\uff47\uff55\uff41\uff52\uff44\uff45\uff44"),
    "the Kelvin sign": ("kit", "\u212ait"),
    "Turkish capital I with a dot": ("model-i", "MODEL-\u0130"),
    "Turkish small i without one": ("model-i", "model-\u0131"),
    "long s": ("safe", "\u017fafe"),
    "a zero-width space": ("guarded", "guar\u200bded"),
    "a zero-width joiner": ("guarded", "guarded\u200d"),
    "a soft hyphen": ("guarded", "guar\u00added"),
    "a direction mark": ("guarded", "\u202eguarded"),
    "a variation selector": ("guarded", "g\ufe0fuarded"),
    "a Hangul filler": ("guarded", "guarded\u3164"),
    "a trailing space": ("guarded", "guarded "),
    "a trailing dot": ("guarded", "guarded."),
    "a no-break space": ("my model", "my\u00a0model"),
    "a ligature": ("fine", "\ufb01ne"),
    "an accent": ("guarded", "gu\u00e1rded"),
    "an accent apart": ("guarded", "gua\u0301rded"),
    "a stroke": ("lord", "\u0142\u00f8rd"),
    "sharp s as two": ("class", "cla\u00df"),
    "sharp s as one": ("classifier", "clas\u00dfifier"),
    "capital sharp s": ("strasse", "STRA\u1e9eE"),
    "a mathematical letter": ("guarded", "\U0001d420uarded"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_spelling_that_some_database_takes_for_the_name_is_the_name(trick: str) -> None:
    assert same(*TRICKS[trick])


@pytest.mark.parametrize(("one", "other"), [("guarded", "guarde"), ("kit", "kid"), ("a-b", "a_b"), ("clas", "class")])
def test_other_names_stay_other_names(one: str, other: str) -> None:
    assert not same(one, other)


@given(st.text(max_size=20))
def test_folding_is_stable_and_blind_to_case_and_form(text: str) -> None:
    for variant in (
        text.upper(),
        text.lower(),
        unicodedata.normalize("NFKC", text),
        unicodedata.normalize("NFD", text),
    ):
        if variant.casefold() == text.casefold() or unicodedata.normalize("NFKC", text) == variant:
            assert same(text, variant)
    assert all(form in folds(form) for form in folds(text))


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "a.",
        "\u200b",
        "a\u200bb",
        "\u212ait",
        "\uff41",
        "\u0430na",
        "a\tb",
        "a\u00a0b",
        "a\u3164",
        "a\u034fb",
        "\u0301",
        "a\ud800",
    ],
)
def test_a_name_that_may_be_mistaken_is_not_plain(name: str) -> None:
    assert not_plain(name)


ORDINARY = [
    "Ana Ruiz",
    "Jos\u00e9",
    "\u5b89\u5168-adapter",
    "guarded-adapter_2.1",
    "\u0410\u043d\u043d\u0430",
    "O'Neill",
]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_of_any_one_script_are_plain(name: str) -> None:
    assert not_plain(name) == ""


def test_repeated_names_are_found_with_the_first_of_them() -> None:
    assert repeated(["a", "b", "A", "c", "\uff22", "A "]) == {2: 0, 4: 1, 5: 0}


TWINS = {
    "one Cyrillic letter": ("guarded", "gu\u0430rded"),
    "a Cyrillic capital letter": ("guarded", "GU\u0410RDED"),
    "wholly Cyrillic": ("scope", "\u0455\u0441\u043e\u0440\u0435"),
    "a Greek letter": ("production", "pr\u03bfduction"),
    "an Armenian letter": ("son", "so\u0578"),
    "a Cherokee letter": ("guarded", "\u13c0uarded"),
    "Lisu letters": ("dada", "\ua4d3\ua4ee\ua4d3\ua4ee"),
    "a script g": ("guarded", "\u0261uarded"),
    "a Coptic letter": ("con", "c\u2c9fn"),
    "U+2010 for the hyphen": ("guarded-adapter", "guarded\u2010adapter"),
    "a non-breaking hyphen": ("guarded-adapter", "guarded\u2011adapter"),
    "a minus sign": ("guarded-adapter", "guarded\u2212adapter"),
    "an en dash": ("guarded-adapter", "guarded\u2013adapter"),
    "a Cyrillic letter and an accent": ("guarded", "gu\u0430rd\u00e9d"),
    "a digit": ("model-l", "model-1"),
    "a capital letter": ("model-l", "model-I"),
    "two letters": ("model", "rnodel"),
    "another letter o": ("model-o", "m\u0585del-0"),
}


@pytest.mark.parametrize("trick", TWINS)
def test_a_name_that_a_reader_takes_for_another_looks_like_it(trick: str) -> None:
    one, other = TWINS[trick]
    assert alike(one, other)
    assert look_alike(other, ("another", one)) == 1
    assert repeated_looks(["another", one, other]) == {2: 1}


@pytest.mark.parametrize("trick", [trick for trick in TWINS if trick != "a capital letter"])
def test_to_a_database_it_is_another_name(trick: str) -> None:
    assert not same(*TWINS[trick])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("guarded", "unguarded"),
        ("model-1", "model-2"),
        ("guarded", "guarded2"),
        ("llama-7b", "llama-70b"),
        ("a-b", "a_b"),
    ],
)
def test_honest_names_do_not_look_alike(one: str, other: str) -> None:
    assert not alike(one, other)


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_the_same_looks_the_same(one: str, other: str) -> None:
    assert alike(one, one)
    assert alike(one, other) or not same(one, other)
    assert alike(one, one.swapcase()) or not same(one, one.swapcase())


@given(st.text(alphabet=string.printable, max_size=20))
def test_plain_ascii_is_folded_as_everything_else_is(text: str) -> None:
    assert position(text + "\u200b", (text,)) == 0


def test_the_table_is_unicodes_own() -> None:
    assert len(prototypes()) == confusables.MAPPINGS
    assert skeleton("\u0440\u0430\u0443\u0440\u0430l") == skeleton("paypal")
    assert skeleton("\u05d0") == skeleton("\u2135")


def test_half_a_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tmp_path / "confusables.txt"
    half.write_text("".join(confusables.TABLE.read_text(encoding="utf-8").splitlines(keepends=True)[:4000]))
    monkeypatch.setattr(confusables, "TABLE", half)
    prototypes.cache_clear()
    with pytest.raises(InternalError, match="not installed whole"):
        skeleton("a")
    monkeypatch.undo()
    prototypes.cache_clear()


LONG = [
    "a" * 2_000_000,
    "\ufdfa" * 700_000,
    "a" + "\u0301\u0323" * 700_000,
    "\u0430" * 1_000_000,
    "a " * 1_000_000,
    "guarded" + "\u200b" * 600_000,
]


@pytest.mark.parametrize("name", LONG, ids=range(len(LONG)))
def test_a_long_name_is_neither_folded_nor_kept(name: str) -> None:
    """Two megabytes took 16 s of processor, and stayed in memory."""
    tracemalloc.start()
    before = process_time()
    assert same(name, "guarded")
    assert same("guarded", name)
    assert alike("guarded", name)
    assert position(name, ("guarded",)) == look_alike(name, ("guarded",)) == 0
    assert position(name, ()) is None
    assert process_time() - before < 1
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    for fold in (folds, looks):
        with pytest.raises(ValueError, match="the longest has 256"):
            fold(name)


def test_nothing_of_a_strangers_name_stays_in_memory() -> None:
    names = [f"{number:06}{chr(0xFDFA) * 99}" for number in range(8)]
    assert position(names[0], ("guarded",)) is None
    tracemalloc.start()
    for name in names:
        position(name, ("guarded",))
        same(name, "guarded")
    assert tracemalloc.get_traced_memory()[0] < 10 * sys.getsizeof(names[0])
    tracemalloc.stop()


def test_the_longest_name_is_folded_in_no_time() -> None:
    before = process_time()
    looks("\ufdfa" * LONGEST)
    assert process_time() - before < 2
