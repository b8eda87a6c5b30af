"""What a gated store does with names that only look like a guarded one, and with names that no database holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import pytest
from gate_parts import parts
from gated_servers import people

from guardrail.errors import EvidenceInvalid
from guardrail.gate.store.database_names import LONGEST_ALIAS, require_alias, require_name
from guardrail.registry.mlflow.mlflow_client import GATE

pytestmark = pytest.mark.slow

LOGGER = "guardrail.server"
CYRILLIC_SCOPE = "\u0455\u0441\u043e\u0440\u0435"
"""A guarded name that is wholly Cyrillic, and so plain."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("gate")
    who = people(folder / "people")
    who.write(who.trust("model-l", CYRILLIC_SCOPE))
    with parts(folder) as gate:
        gate.store.create_registered_model("innocent")
        gate.store.create_registered_model("guarded")
        yield gate.store


def refused(move: Callable[..., object], *given: object, match: str = GATE) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=match) as caught:
        move(*given)
    assert caught.value.error_code == "PERMISSION_DENIED"


def registered(store: Any) -> list[str]:
    return [one.name for one in store.search_registered_models()]


TWINS = [
    "gu\u0430rded",
    "GU\u0410RDED",
    "\u0261uarded",
    "guarded\u2010attacked",
    "guarded\u2212attacked",
    "unb\u03bfrn",
    "tw\u0456ce",
    "m\u043edel-l",
    "model\u2010l",
    "m\u043edel-1",
    "scope",
    "s\u0441ope",
]


@pytest.mark.parametrize("name", TWINS)
def test_nobody_makes_a_model_that_looks_like_a_guarded_one(store: Any, name: str) -> None:
    refused(store.create_registered_model, name, match="looks like the guarded model")
    refused(store.rename_registered_model, "innocent", name, match="looks like the guarded model")
    assert registered(store) == ["guarded", "innocent"]


@pytest.mark.parametrize("name", ["model-1", "model-I", "b1ank", "rnodel-l"])
def test_an_honest_name_in_ascii_is_only_named_in_the_log(
    store: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        store.create_registered_model(name)
        store.create_model_version(name, "s3://bucket/model")
        store.set_registered_model_alias(name, "champion", "1")
        assert f"'{name}' looks like the guarded model" in caplog.text
        caplog.clear()
        assert store.get_model_version_by_alias(name, "champion").version == 1
        assert f"'{name}' looks like the guarded model" in caplog.text
    store.delete_registered_model(name)


def test_other_names_are_not_mentioned(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        for name in ("guarded-2", "m\u00f6del-2", "\u0430\u043d\u043d\u0430"):
            store.create_registered_model(name)
            store.delete_registered_model(name)
    assert caplog.text == ""


@pytest.mark.parametrize("alias", ["pr0duction", "Product\u0456on", "production\n"])
def test_no_alias_of_a_guarded_model_looks_like_a_protected_one(store: Any, alias: str) -> None:
    refused(store.set_registered_model_alias, "guarded", alias, "1")


def by_name(store: Any) -> list[Callable[[str], object]]:
    """Everything that takes the name of a model."""
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

    return [
        store.create_registered_model,
        store.delete_registered_model,
        lambda name: store.rename_registered_model(name, "new"),
        lambda name: store.rename_registered_model("innocent", name),
        lambda name: store.update_registered_model(name, "x"),
        lambda name: store.set_registered_model_tag(name, RegisteredModelTag("a", "b")),
        lambda name: store.delete_registered_model_tag(name, "a"),
        lambda name: store.create_model_version(name, "s3://bucket/model"),
        lambda name: store.update_model_version(name, "1", "x"),
        lambda name: store.transition_model_version_stage(name, "1", "Production", False),
        lambda name: store.delete_model_version(name, "1"),
        lambda name: store.set_model_version_tag(name, "1", ModelVersionTag("a", "b")),
        lambda name: store.delete_model_version_tag(name, "1", "a"),
        lambda name: store.set_registered_model_alias(name, "champion", "1"),
        lambda name: store.delete_registered_model_alias(name, "champion"),
        lambda name: store.get_model_version_by_alias(name, "champion"),
    ]


LONG = {
    "letters": "a" * 2_000_000,
    "ligatures": "\ufdfa" * 700_000,
    "accents": "a" + "\u0301\u0323" * 700_000,
    "one too many": "a" * 257,
    "nothing visible": "guarded" + "\u200b" * 300,
}


@pytest.mark.parametrize("name", LONG)
def test_a_name_that_no_column_holds_is_refused_at_once(store: Any, name: str) -> None:
    before = process_time()
    for move in by_name(store):
        refused(move, LONG[name], match="characters")
    for move in (store.set_registered_model_alias, store.delete_registered_model_alias):
        refused(move, "guarded", LONG[name], *(["1"] if move == store.set_registered_model_alias else []))
    refused(store.get_model_version_by_alias, "guarded", LONG[name])
    assert process_time() - before < 2
    assert registered(store) == ["guarded", "innocent"]


def test_half_a_character_is_refused(store: Any) -> None:
    for move in by_name(store):
        refused(move, "guarded\ud800", match="no Unicode text")


def test_the_longest_names_are_taken(store: Any) -> None:
    require_name("a" * 256)
    require_alias("a" * LONGEST_ALIAS)
    with pytest.raises(EvidenceInvalid, match="257 characters"):
        require_name("a" * 257)
    with pytest.raises(EvidenceInvalid, match="at most 255"):
        require_alias("a" * (LONGEST_ALIAS + 1))
    store.create_registered_model("a" * 256)
    store.delete_registered_model("a" * 256)
