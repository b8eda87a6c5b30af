"""A trust file as people write it: YAML with names for keys, paths for keys and policies; errors name line and column.

What is signed is the canonical form (``trust_file.py``): key ids and PEMs in place of names, digests in place of
policies. Not covered: what a policy is. The caller gives a function that reads one and returns its digest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path

from pydantic import ValidationError

from guardrail.document_mistakes import Mistake, from_pydantic, hint, known_keys, mistake_lines
from guardrail.errors import InvalidInput
from guardrail.evidence.keys.key_pairs import PublicKey, load_public, public_pem
from guardrail.evidence.trust.trust_rules import problems
from guardrail.evidence.trust.trust_source import SECTIONS, AliasSource, KeySource, RolesSource, RootSource, TrustSource
from guardrail.evidence.trust.trust_types import GuardedModel, Least, ProtectedAlias, PublicKeyEntry, Roles, Root, Trust
from guardrail.yaml_document import MAX_BYTES, Document, read_document
from guardrail.yaml_document import Path as Place

WHAT = "a trust file"


@dataclass(frozen=True)
class PolicyUse:
    """A policy as the file names it, for which model and alias, and what the file asks of it."""

    policy: str
    model: str
    alias: str
    bases: tuple[str, ...] = ()
    least: tuple[Least, ...] = ()


Pin = Callable[[PolicyUse], str]
"""The digest of a policy.

Raises:
    InvalidInput: it cannot be read, is not for this model and alias, or promises less than the file asks.
"""


def read_trust(path: Path, *, issued: datetime, pin: Pin) -> Trust:
    """Read and check a written trust file; ``issued`` becomes its time, cut to the second.

    Raises:
        InvalidInput: it cannot be read or makes no sense; every line of the message names file:line:column.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot read the trust file {path}: {why}", next_step="guardrail trust init") from error
    document = read_document(data, str(path), WHAT)
    return _Builder(document, path.parent, pin).build(issued.astimezone(UTC).replace(microsecond=0))


@dataclass
class _Builder:
    """One reading; ``mistakes`` grows, and nothing is returned while there are any."""

    document: Document
    directory: Path
    pin: Pin
    mistakes: list[Mistake] = field(default_factory=list)

    def build(self, issued: datetime) -> Trust:
        source = self._source()
        keys = {label: self._key(label, entry) for label, entry in source.keys.items()}
        self._distinct(source, keys)
        trust = Trust.model_construct(
            schema_version=1,
            version=source.version,
            issued=issued,
            expires=self._expires(source.expires),
            root=self._root(source.root, keys),
            keys=self._entries(source, keys),
            roles=self._roles(source.roles, keys),
            models=tuple(self._model(source, index) for index in range(len(source.models))),
            one_person_may_train_evaluate_and_approve=source.one_person_may_train_evaluate_and_approve,
            least=source.least,
        )
        self._stop()
        labels = {key.keyid: label for label, key in keys.items() if key}
        self.mistakes += [Mistake(_place(found.place, labels), found.text) for found in problems(trust)]
        self._stop()
        return Trust.model_validate(trust.model_dump())

    def _stop(self) -> None:
        if self.mistakes:
            raise InvalidInput(
                mistake_lines(self.document, self.mistakes),
                next_step="`guardrail trust init` writes a commented trust file",
            )

    def _source(self) -> TrustSource:
        try:
            return TrustSource.model_validate(self.document.data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            self.mistakes += [from_pydantic(detail, (), known_keys(detail["loc"], SECTIONS)) for detail in details]
            self._stop()
            raise

    def _key(self, label: str, entry: KeySource) -> PublicKey | None:
        try:
            return load_public(self.directory / entry.file)
        except InvalidInput as error:
            self.mistakes.append(Mistake(("keys", label, "file"), error.got))
            return None

    def _distinct(self, source: TrustSource, keys: dict[str, PublicKey | None]) -> None:
        first: dict[str, str] = {}
        for label, key in keys.items():
            if key is not None and first.setdefault(key.keyid, label) != label:
                earlier = first[key.keyid]
                text = f"the same key as {earlier!r} ({source.keys[earlier].person})"
                self.mistakes.append(Mistake(("keys", label), text))

    def _entries(self, source: TrustSource, keys: dict[str, PublicKey | None]) -> dict[str, PublicKeyEntry]:
        return {
            key.keyid: PublicKeyEntry(person=source.keys[label].person, pem=public_pem(key))
            for label, key in keys.items()
            if key is not None
        }

    def _ids(self, labels: tuple[str, ...], keys: dict[str, PublicKey | None], place: Place) -> tuple[str, ...]:
        for index, label in enumerate(labels):
            if label not in keys:
                text = f"key {label!r} is not described under 'keys': {hint(label, tuple(keys))}"
                self.mistakes.append(Mistake((*place, index), text))
        return tuple(key.keyid for key in (keys.get(label) for label in labels) if key is not None)

    def _root(self, root: RootSource, keys: dict[str, PublicKey | None]) -> Root:
        return Root.model_construct(
            threshold=root.threshold,
            keys=self._ids(root.keys, keys, ("root", "keys")),
            previous=self._ids(root.previous, keys, ("root", "previous")),
        )

    def _roles(self, roles: RolesSource, keys: dict[str, PublicKey | None]) -> Roles:
        return Roles(**{role: self._ids(labels, keys, ("roles", role)) for role, labels in roles})

    def _model(self, source: TrustSource, index: int) -> GuardedModel:
        model, place = source.models[index], ("models", index, "aliases")
        asked = tuple(least for least in (source.least, model.least) if least is not None)
        aliases = [
            self._alias(entry, PolicyUse(entry.policy, model.name, entry.alias, model.bases, asked), (*place, at))
            for at, entry in enumerate(model.aliases)
        ]
        return GuardedModel.model_construct(
            name=model.name, aliases=tuple(aliases), bases=model.bases, least=model.least
        )

    def _alias(self, entry: AliasSource, use: PolicyUse, place: Place) -> ProtectedAlias:
        digest = ""
        try:
            digest = self.pin(use)
        except InvalidInput as error:
            self.mistakes.append(Mistake((*place, "policy"), " ".join(error.message().split())))
        return ProtectedAlias.model_construct(
            alias=entry.alias, policy=digest, approvals=entry.approvals, when_invalid=entry.when_invalid
        )

    def _expires(self, day: str) -> datetime:
        try:
            return datetime.combine(date.fromisoformat(day), time(), UTC)
        except ValueError:
            self.mistakes.append(Mistake(("expires",), f"{day!r} is no day of the calendar"))
            return datetime.max.replace(tzinfo=UTC)


def _place(place: tuple[str | int, ...], labels: dict[str, str]) -> Place:
    """Where people wrote it: key ids become the names of keys."""
    return tuple(labels.get(part, part) if isinstance(part, str) else part for part in place)
