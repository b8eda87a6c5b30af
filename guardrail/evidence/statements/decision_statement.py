"""The in-toto statement of a decision: these adapter files, this decision, this evidence.

The subjects are the adapter's files, every one of them; the predicate is the Decision and the digests of the evidence
files that are stored beside it. Not covered: the form (``intoto.py``), signing (``envelope.py``) and whether what is
stated is true (``registry/verify/evidence_checks.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from guardrail.evidence.digest import sha256
from guardrail.evidence.statements.intoto import (
    Resource,
    StatementForm,
    by_name,
    make,
    read,
    require_order,
    resources,
    write,
)
from guardrail.records import Decision, FileDigest, Frozen

PREDICATE = "urn:mlflow-guardrail:decision:v1"


class Predicate(Frozen):
    """What is said of the subjects."""

    decision: Decision
    evidence: tuple[Resource, ...]


class Statement(StatementForm):
    """One in-toto Statement v1 of a decision; the subjects are the adapter's files."""

    predicate_type: Literal["urn:mlflow-guardrail:decision:v1"] = Field(alias="predicateType")
    predicate: Predicate

    @property
    def evidence(self) -> dict[str, str]:
        """Name to SHA-256 of every evidence file."""
        return by_name(self.predicate.evidence)


def build(decision: Decision, files: Iterable[FileDigest], evidence: Mapping[str, bytes]) -> bytes:
    """The canonical bytes of the statement.

    Args:
        decision: what was decided.
        files: the adapter's manifest.
        evidence: file name to bytes of what is stored beside the adapter.
    """
    stored = resources({name: sha256(data) for name, data in evidence.items()})
    subjects = {entry.path: entry.sha256 for entry in files}
    return write(make(Statement, subjects, PREDICATE, {"decision": decision, "evidence": stored}))


def parse(payload: bytes) -> Statement:
    """Read a statement back.

    Raises:
        EvidenceInvalid: not such a statement, an unknown or repeated field, a name twice, or not canonical bytes.
    """
    statement = read(payload, Statement)
    require_order(statement.predicate.evidence)
    return statement
