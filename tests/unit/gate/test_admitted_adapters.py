"""The gated server itself refuses adapters that are not what they were measured as, whoever signed for them.

The decider's client let everything through: evidence is proven by every stage and signed by the right keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from adapter_tricks import FILES, TRICKS, Trick
from gate_chains import proven

from guardrail.errors import EvidenceInvalid

if TYPE_CHECKING:
    from gate_parts import Parts

MODEL = "guarded"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gate that has seen nothing yet; to be copied, never used."""
    from gate_parts import parts

    folder = tmp_path_factory.mktemp("adapters")
    with parts(folder):
        return folder


@pytest.fixture
def gate(prepared: Path, tmp_path: Path) -> Iterator[Parts]:
    """One to ask: each attempt at one and the same gate is judged more strictly, and its tickets are counted."""
    from gate_parts import parts

    shutil.copytree(prepared, tmp_path / "gate")
    with parts(tmp_path / "gate") as made:
        yield made


@pytest.mark.parametrize("trick", [*TRICKS, *FILES], ids=lambda trick: trick.name)
def test_a_signed_adapter_that_is_not_what_it_was_measured_as_is_refused_and_nothing_is_sealed(
    gate: Parts, tmp_path: Path, trick: Trick
) -> None:
    bundle = proven(tmp_path / "a", gate, gate.who.signers, model=MODEL, prepare=trick.change)
    before = sorted((gate.folder / "sealed").rglob("*"))
    with pytest.raises(EvidenceInvalid, match=f"(?s){trick.answer}"):
        gate.propose(bundle)
    assert sorted((gate.folder / "sealed").rglob("*")) == before
    assert not gate.store.search_model_versions(f"name = '{MODEL}'")


def test_the_same_adapter_unchanged_is_promoted(tmp_path: Path) -> None:
    from gate_parts import parts

    with parts(tmp_path / "gate") as fresh:
        bundle = proven(tmp_path / "a", fresh, fresh.who.signers, model=MODEL)
        fresh.store.create_registered_model(MODEL)
        assert fresh.promote(bundle) == "1"
