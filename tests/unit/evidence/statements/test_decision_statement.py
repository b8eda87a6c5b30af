"""Statements and bundles: what is signed, in one form only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registry_bundles import unsealed

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.bundle import Bundle, adapter_files, seal, write
from guardrail.evidence.digest import canonical, file_sha256, sha256
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.statements.decision_statement import build, parse


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return unsealed(tmp_path / "adapter")


@pytest.fixture
def payload(bundle: Bundle) -> bytes:
    return build(bundle.decision, adapter_files(bundle.adapter_dir), bundle.records())


def test_a_statement_names_every_file_and_the_decision(bundle: Bundle, payload: bytes) -> None:
    statement = parse(payload)
    directory = bundle.adapter_dir
    assert statement.subjects == {path.name: file_sha256(path) for path in directory.iterdir()}
    assert statement.evidence["policy.yaml"] == sha256(bundle.policy) == bundle.decision.policy
    assert set(statement.evidence) == {"policy.yaml", "data.json", "adapter.json", "evaluation.json"}
    assert statement.predicate.decision == bundle.decision


def test_a_statement_has_the_form_of_in_toto(payload: bytes) -> None:
    plain = json.loads(payload)
    assert set(plain) == {"_type", "subject", "predicateType", "predicate"}
    assert plain["_type"] == "https://in-toto.io/Statement/v1"
    assert plain["predicateType"] == "urn:mlflow-guardrail:decision:v1"
    assert set(plain["subject"][0]) == {"name", "digest"}


def change(payload: bytes, how: Callable[[dict[str, Any]], object]) -> bytes:
    plain = json.loads(payload)
    how(plain)
    return canonical(plain)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown field": lambda s: s.update(note="x"),
    "unknown field deep inside": lambda s: s["predicate"]["decision"].update(note="x"),
    "another type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": lambda s: s.update(predicateType="urn:other"),
    "no subject": lambda s: s.update(subject=[]),
    "a subject twice": lambda s: s["subject"].append(s["subject"][-1]),
    "subjects out of order": lambda s: s["subject"].reverse(),
    "evidence twice": lambda s: s["predicate"]["evidence"].append(s["predicate"]["evidence"][-1]),
    "a digest that is none": lambda s: s["subject"][0]["digest"].update(sha256="A" * 64),
    "a verdict that is none": lambda s: s["predicate"]["decision"].update(verdict="GOOD"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_statement_is_refused(payload: bytes, name: str) -> None:
    with pytest.raises(EvidenceInvalid):
        parse(change(payload, CHANGES[name]))


def test_other_bytes_for_the_same_statement_are_refused(payload: bytes) -> None:
    for other in (json.dumps(json.loads(payload)).encode(), payload + b"\n", b"", b"null", b"\xff"):
        with pytest.raises(EvidenceInvalid):
            parse(other)


def test_a_bundle_is_laid_out_for_peft_with_its_evidence_beside(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(bundle, tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "evidence/policy.yaml",
        "evidence/data.json",
        "evidence/adapter.json",
        "evidence/evaluation.json",
        "evidence/decision.dsse.json",
    }


@pytest.mark.parametrize("name", ["a b", "a%20b", ".hidden", "-x", "evidence", "Evidence", "ä"])
def test_a_name_that_a_registry_may_change_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.adapter_dir / name).write_text("x")
    with pytest.raises(EvidenceInvalid, match="a file called"):
        adapter_files(bundle.adapter_dir)


def test_an_empty_directory_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(EvidenceInvalid, match="no adapter"):
        adapter_files(tmp_path)


def test_a_decision_that_was_signed_with_ecdsa_is_not_signed_twice(bundle: Bundle, tmp_path: Path) -> None:
    key = key_pairs.load_private(key_pairs.init(tmp_path / "a", kind="ecdsa").private)
    other = key_pairs.load_private(key_pairs.init(tmp_path / "b", kind="ecdsa").private)
    first = seal(bundle, key)
    assert seal(bundle, key).envelope != first.envelope  # ECDSA draws a number for each signature
    assert seal(bundle, key, earlier=first.envelope).envelope == first.envelope
    changed = Bundle(**{**bundle.__dict__, "policy": b"another"})
    for made in (seal(bundle, other, earlier=first.envelope), seal(changed, key, earlier=first.envelope)):
        assert made.envelope not in (first.envelope, b"")
