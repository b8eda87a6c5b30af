"""The gated server itself refuses adapters that are not what they were measured as, whoever signed for them.

The decider's client let everything through: evidence is proven by every stage and signed by the right keys.
"""

from __future__ import annotations

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
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    from gate_parts import parts

    with parts(tmp_path_factory.mktemp("gate")) as made:
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
