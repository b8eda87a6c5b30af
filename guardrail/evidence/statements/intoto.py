"""The in-toto statement that all our statements share: subjects, a predicate's type, one canonical form.

The form is https://github.com/in-toto/attestation/tree/main/spec/v1 in canonical JSON (RFC 8785). A statement is a
subclass of :class:`StatementForm` with its own ``predicate_type`` and ``predicate``.
Not covered: signing (``envelope.py``) and what the predicates mean (``decision_statement.py``, ``stage_statement.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from guardrail.errors import EvidenceInvalid
from guardrail.evidence.digest import canonical
from guardrail.records import Frozen, Sha256

STATEMENT = "https://in-toto.io/Statement/v1"


class DigestSet(Frozen):
    """in-toto's DigestSet, of which we use one member."""

    sha256: Sha256


class Resource(Frozen):
    """in-toto's ResourceDescriptor: a file's name (relative, forward slashes) and its digest."""

    name: str
    digest: DigestSet


class StatementForm(Frozen):
    """One in-toto Statement v1, but for its predicate."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Resource, ...] = Field(min_length=1)

    @property
    def subjects(self) -> dict[str, str]:
        """Name to SHA-256 of every subject."""
        return by_name(self.subject)


F = TypeVar("F", bound=StatementForm)


def make(kind: type[F], subjects: Mapping[str, str], predicate_type: str, predicate: Any) -> F:
    """A statement about ``subjects`` (name to SHA-256).

    Raises:
        pydantic.ValidationError: the predicate is not one of this kind.
    """
    return kind.model_validate(
        {
            "_type": STATEMENT,
            "subject": resources(subjects),
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def write(statement: StatementForm) -> bytes:
    """Its canonical bytes."""
    return canonical(statement.model_dump(mode="json", by_alias=True))


def read(payload: bytes, kind: type[F]) -> F:
    """Read a statement back.

    Raises:
        EvidenceInvalid: not such a statement, an unknown or repeated field, a name twice, or not canonical bytes.
    """
    try:
        statement = kind.model_validate_json(payload)
        same = write(statement) == payload
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise EvidenceInvalid(f"the signed statement is not one of ours: {where}: {first['msg']}") from error
    except ValueError as error:  # numbers that canonical JSON cannot hold
        raise EvidenceInvalid(f"the signed statement is not one of ours: {error}") from error
    if not same:
        raise EvidenceInvalid("the signed statement is not in its canonical form", expected="RFC 8785 bytes")
    require_order(statement.subject)
    return statement


def resources(digests: Mapping[str, str]) -> list[dict[str, object]]:
    """Resource descriptors, sorted by name."""
    return [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)]


def by_name(found: Sequence[Resource]) -> dict[str, str]:
    """Name to SHA-256."""
    return {resource.name: resource.digest.sha256 for resource in found}


def require_order(found: Sequence[Resource]) -> None:
    """Each name once, sorted: so a list has one form.

    Raises:
        EvidenceInvalid: it is otherwise.
    """
    names = [resource.name for resource in found]
    if names != sorted(set(names)):
        raise EvidenceInvalid("the signed statement names a file twice or out of order")
