"""Every method of MLflow's registry store is classified, and the class that gates overrides exactly the gated ones."""

from __future__ import annotations

import inspect

import pytest
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from guardrail.errors import InvalidInput
from guardrail.gate.store.gated_store import GatedStore
from guardrail.gate.store.store_methods import GATED, READ, STOCK, THROUGH_GATED, public_methods, require_classified

KINDS = {"read": READ, "gated": GATED, "stock": STOCK}


def test_the_installed_mlflow_is_classified() -> None:
    require_classified(SqlAlchemyStore)
    require_classified(AbstractStore)


def test_a_method_that_nobody_classified_stops_the_server() -> None:
    class Newer(GatedStore):
        def bless_model_version(self, name: str, version: str) -> None:
            """As a newer MLflow might have."""

    with pytest.raises(InvalidInput, match="bless_model_version"):
        Newer("gated+sqlite:///never-made.db")


def test_no_method_is_in_two_classes_and_none_is_made_up() -> None:
    assert sum(len(kind) for kind in KINDS.values()) == len(frozenset().union(*KINDS.values()))
    assert frozenset().union(*KINDS.values()) <= public_methods(SqlAlchemyStore)


def test_the_gate_overrides_the_gated_methods_and_no_other() -> None:
    own = {name for name in vars(GatedStore) if not name.startswith("_") and callable(getattr(GatedStore, name))}
    assert own == GATED


@pytest.mark.parametrize("name", sorted(THROUGH_GATED))
def test_a_method_through_gated_ones_opens_no_session_of_its_own(name: str) -> None:
    method = getattr(SqlAlchemyStore, name)
    assert method is getattr(AbstractStore, name)
    assert "ManagedSessionMaker" not in inspect.getsource(method)


@pytest.mark.parametrize("name", sorted(GATED))
def test_the_override_takes_what_the_method_takes(name: str) -> None:
    ours, theirs = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (GatedStore, SqlAlchemyStore))
    assert ours == theirs
