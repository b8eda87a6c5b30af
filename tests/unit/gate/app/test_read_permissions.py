"""Whose permission opens a sealed adapter: that of the models for which the ledger says it was sealed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gate_trust import person

from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.digest import sha256
from guardrail.gate.app import read_permissions
from guardrail.gate.app.read_permissions import Sealed, judge_by_models, sealed, sealed_for
from guardrail.gate.ledger.journal import Journal, draft
from guardrail.gate.registrar import Registrar

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADAPTER, OTHER, EVIDENCE, VOTE = (sha256(word) for word in (b"sealed", b"other", b"evidence", b"vote"))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    signer = person(tmp_path / "k", "server")
    return Journal(tmp_path / "ledger", tmp_path / "head", signer.private, [signer.public], lambda: NOW)


def _registrar(journal: Journal, *versions: tuple[str, str]) -> Registrar:
    """With a registry that has these versions, by model and location."""
    beneath = SimpleNamespace(versions_at=lambda *place: ["1"] if place in versions else [])
    return cast(Registrar, SimpleNamespace(journal=journal, beneath=beneath))


def _admit(journal: Journal, model: str, digest: str = ADAPTER, evidence: str = EVIDENCE) -> None:
    note = f"sealed/{digest} models:/m-1"
    journal.append(
        lambda _: draft(
            "decision", model=model, alias="a", evidence=evidence, subject=OTHER, nonce="ab" * 32, note=note
        )
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"sealed/{ADAPTER}", ADAPTER),
        (f"sealed/{ADAPTER}/", ADAPTER),
        (f"./sealed//{ADAPTER}/evidence/a.json", ADAPTER),
        (f"SEALED/{ADAPTER}/x", ""),
        ("sealed/.staging-1/x", ".staging-1"),
        (f"sealed/{ADAPTER.upper()}", ADAPTER.upper()),
        ("sealed", None),
        ("sealed/", None),
        ("", None),
        (None, None),
        (f"1/sealed/{ADAPTER}", None),
        (f"unsealed/{ADAPTER}", None),
    ],
)
def test_every_spelling_of_a_path_below_sealed_is_judged_by_models(path: str | None, found: str | None) -> None:
    assert sealed(path) == (None if found is None else Sealed(found))


def test_an_adapter_is_open_to_the_readers_of_a_model_with_a_version_of_it(journal: Journal) -> None:
    _admit(journal, "m")
    journal.append(lambda _: draft("promotion", model="m", alias="a", version="1", evidence=EVIDENCE, subject=OTHER))
    place = f"mlflow-artifacts:/sealed/{ADAPTER}"
    assert sealed_for(_registrar(journal, ("m", place), ("elsewhere", place)), ADAPTER) == {"m"}
    assert sealed_for(_registrar(journal, ("elsewhere", place)), ADAPTER) == set()
    assert sealed_for(_registrar(journal, ("m", place)), OTHER) == set()
    assert sealed_for(_registrar(journal, ("m", place)), "") == set()


def test_while_it_waits_it_is_open_to_the_readers_of_the_model_and_after_a_no_it_is_not(journal: Journal) -> None:
    _admit(journal, "m")
    assert sealed_for(_registrar(journal), ADAPTER) == {"m"}
    journal.append(lambda _: draft("rejection", evidence=EVIDENCE, statement=VOTE))
    assert sealed_for(_registrar(journal), ADAPTER) == set()


def _auth() -> Any:
    return SimpleNamespace(
        _canonical_artifact_proxy_path=lambda path: None if ".." in path else path,
        _artifact_proxy_child=lambda path, _: f"stock:{path}",
        _authorize_artifact_proxy_resolved=lambda _, __, ___, otherwise: otherwise(),
    )


def test_only_reads_below_sealed_are_judged_anew(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    _admit(journal, "m")
    auth = _auth()
    judge_by_models(auth, _registrar(journal))
    monkeypatch.setattr(read_permissions, "may_read", lambda user, model: (user, model) == ("bob", "m"))

    def may(user: str, path: str | None, action: str, stock: bool) -> bool:
        found = auth._artifact_proxy_child(path, action)
        return bool(auth._authorize_artifact_proxy_resolved(found, user, action, lambda: stock))

    file = f"sealed/{ADAPTER}/adapter_model.safetensors"
    assert may("bob", file, "read", stock=False)
    assert not may("eve", file, "read", stock=True)
    assert not may("bob", f"sealed/{OTHER}/x", "read", stock=True)
    for action, path in (("update", file), ("manage", file), ("read", "1/x"), ("read", "sealed"), ("read", None)):
        assert may("eve", path, action, stock=True)
        assert not may("bob", path, action, stock=False)
    assert auth._artifact_proxy_child(f"x/../{file}", "read") == f"stock:x/../{file}"


def test_a_ledger_that_does_not_answer_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise EvidenceInvalid("entry 3 does not follow")

    auth = _auth()
    judge_by_models(auth, cast(Registrar, SimpleNamespace(journal=SimpleNamespace(state=broken))))
    monkeypatch.setattr(read_permissions, "may_read", lambda *_: True)
    found = auth._artifact_proxy_child(f"sealed/{ADAPTER}", "read")
    assert not auth._authorize_artifact_proxy_resolved(found, "bob", "read", lambda: True)


def test_an_mlflow_that_judges_otherwise_starts_nothing(journal: Journal) -> None:
    auth = _auth()
    del auth._artifact_proxy_child
    with pytest.raises(InvalidInput, match="_artifact_proxy_child"):
        judge_by_models(auth, _registrar(journal))
