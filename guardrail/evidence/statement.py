"""The in-toto statement that is signed: these adapter files, this decision, this evidence.

The subjects are the adapter's files, every one of them; the predicate is the Decision and the digests of the evidence
files that are stored beside it. The form is https://github.com/in-toto/attestation/tree/main/spec/v1 in canonical JSON
(RFC 8785). Not covered: signing (``envelope.py``) and whether what is stated is true (``registry/checks.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, ValidationError

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical, sha256
from guardrail.records import Decision, FileDigest, Frozen, Sha256

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:mlflow-guardrail:decision:v1"


class Digests(Frozen):
    """in-toto's DigestSet, of which we use one member."""

    sha256: Sha256


class Resource(Frozen):
    """in-toto's ResourceDescriptor: a file's name (relative, forward slashes) and its digest."""

    name: str
    digest: Digests


class Predicate(Frozen):
    """What is said of the subjects."""

    decision: Decision
    evidence: tuple[Resource, ...]


class Statement(Frozen):
    """One in-toto Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Resource, ...] = Field(min_length=1)
    predicate_type: Literal["urn:mlflow-guardrail:decision:v1"] = Field(alias="predicateType")
    predicate: Predicate

    @property
    def subjects(self) -> dict[str, str]:
        """Name to SHA-256 of every adapter file."""
        return {resource.name: resource.digest.sha256 for resource in self.subject}

    @property
    def evidence(self) -> dict[str, str]:
        """Name to SHA-256 of every evidence file."""
        return {resource.name: resource.digest.sha256 for resource in self.predicate.evidence}


def build(decision: Decision, files: Iterable[FileDigest], evidence: Mapping[str, bytes]) -> bytes:
    """The canonical bytes of the statement.

    Args:
        decision: what was decided.
        files: the adapter's manifest.
        evidence: file name to bytes of what is stored beside the adapter.
    """
    statement = Statement.model_validate(
        {
            "_type": STATEMENT,
            "subject": _resources({entry.path: entry.sha256 for entry in files}),
            "predicateType": PREDICATE,
            "predicate": {
                "decision": decision,
                "evidence": _resources({name: sha256(data) for name, data in evidence.items()}),
            },
        }
    )
    return _bytes(statement)


def parse(payload: bytes) -> Statement:
    """Read a statement back.

    Raises:
        EvidenceInvalid: not such a statement, an unknown or repeated field, a name twice, or not canonical bytes.
    """
    try:
        statement = Statement.model_validate_json(payload)
        same = _bytes(statement) == payload
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise EvidenceInvalid(f"the signed statement is not one of ours: {where}: {first['msg']}") from error
    except ValueError as error:  # numbers that canonical JSON cannot hold
        raise EvidenceInvalid(f"the signed statement is not one of ours: {error}") from error
    if not same:
        raise EvidenceInvalid("the signed statement is not in its canonical form", expected="RFC 8785 bytes")
    for resources in (statement.subject, statement.predicate.evidence):
        names = [resource.name for resource in resources]
        if names != sorted(set(names)):
            raise EvidenceInvalid("the signed statement names a file twice or out of order")
    return statement


def _resources(digests: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)]


def _bytes(statement: Statement) -> bytes:
    return canonical(statement.model_dump(mode="json", by_alias=True))
