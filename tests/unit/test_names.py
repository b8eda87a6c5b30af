"""Names: what a database or a reader takes for the same is the same here."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrail.names import folds, not_plain, repeated, same

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


@pytest.mark.parametrize("name", ["", " a", "a ", "a.", "\u200b", "a\u200bb", "\u212ait", "\uff41", "\u0430na", "a\tb",
                                  "a\u00a0b", "a\u3164", "a\u034fb", "\u0301", "a\ud800"])  # fmt: skip
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
