"""What a trust file says: whose key is whose, who may do what, and which models and aliases are guarded.

The types only; whether the whole makes sense is asked by ``trust_rules.py``, who signed it by ``trust_file.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from guardrail.evidence.keys.key_pairs import PublicKey, parse_public
from guardrail.names import Alias, ModelName, look_alike, position, same
from guardrail.records import Count, Frozen, Sha256, Share, Utc

Role = Literal["data", "train", "evaluate", "decide", "approve", "server"]
ROLES: tuple[Role, ...] = ("data", "train", "evaluate", "decide", "approve", "server")


KeyId = Sha256
Person = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _absent(value: object) -> bool:
    """Whether an optional section says nothing. It is then left out of what is signed: files that were signed before
    there was such a section keep their bytes, their signatures and their digest."""
    return not value


def _different(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names a digest twice")
    return values


BaseDigests = Annotated[tuple[Sha256, ...], AfterValidator(_different)]
AtLeastOne = Annotated[int, Field(ge=1)]


class _Exact(Frozen):
    """Types are exact (``"0.95"`` is not 0.95), because people write these as they are signed."""

    model_config = ConfigDict(strict=True)


class LeastRate(_Exact):
    """A rule must limit the rate to at most ``max``, on at least ``min_n`` items; on each of ``suites`` (digests of
    their contents, which the policy must pin), or on any suite where none is named."""

    max: Share
    min_n: AtLeastOne = 1
    suites: BaseDigests = ()


class LeastUtility(_Exact):
    """A rule must limit the loss against the base to at most ``max_drop``, on at least ``min_n`` items."""

    max_drop: Share
    min_n: AtLeastOne = 1


class Least(_Exact):
    """The least that a policy must promise before anything is admitted under it, whoever pinned its digest.

    ``confidence`` holds for every rule that has one; evidence may be valid for ``max_valid_days``; ``withheld_suite``
    asks that an attack success rule as strict as that above (if any) judges a suite that trainers do not have.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] | None = Field(default=None, exclude_if=_absent)
    attack_success_rate: LeastRate | None = Field(default=None, exclude_if=_absent)
    over_refusal_rate: LeastRate | None = Field(default=None, exclude_if=_absent)
    utility: LeastUtility | None = Field(default=None, exclude_if=_absent)
    max_valid_days: AtLeastOne | None = Field(default=None, exclude_if=_absent)
    withheld_suite: bool = Field(default=False, exclude_if=_absent)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("asks for nothing")
        return self


class PublicKeyEntry(Frozen):
    """A public key and the person (or machine) who answers for it."""

    person: Person
    pem: str


class ProtectedAlias(Frozen):
    """An alias that moves only under the policy of this digest, with that many approvals.

    ``when_invalid`` says what resolving it does once its evidence has expired or was revoked.
    """

    alias: Alias
    policy: Sha256
    approvals: Count = 0
    when_invalid: Literal["refuse", "warn"] = "refuse"


class GuardedModel(Frozen):
    """A registered model that nothing enters without evidence.

    ``bases`` are digests of the base models that its adapters may be made for, besides what the policy pins; ``least``
    is what its policies must promise, besides the file's own.
    """

    name: ModelName
    aliases: tuple[ProtectedAlias, ...] = Field(min_length=1)
    bases: BaseDigests = Field(default=(), exclude_if=_absent)
    least: Least | None = Field(default=None, exclude_if=_absent)

    def protected(self, alias: str) -> ProtectedAlias | None:
        """The protected alias that some database would take ``alias`` for, if any."""
        return next((entry for entry in self.aliases if same(entry.alias, alias)), None)


class Root(Frozen):
    """Whose signatures make a trust file: ``threshold`` different persons of ``keys``.

    ``previous`` are keys of the version before that also sign a change of the root; here they count for nothing.
    """

    threshold: Annotated[int, Field(ge=1)]
    keys: tuple[KeyId, ...] = Field(min_length=1)
    previous: tuple[KeyId, ...] = ()


class Roles(Frozen):
    """Which keys may sign which stage; ``decide`` proposes a promotion, ``server`` signs the ledger."""

    data: tuple[KeyId, ...] = ()
    train: tuple[KeyId, ...] = ()
    evaluate: tuple[KeyId, ...] = ()
    decide: tuple[KeyId, ...] = ()
    approve: tuple[KeyId, ...] = ()
    server: tuple[KeyId, ...] = ()


class Trust(Frozen):
    """A whole trust file. ``issued`` and ``expires`` are in UTC; ``keys`` maps key ids to keys."""

    schema_version: Literal[1] = 1
    version: Annotated[int, Field(ge=1)]
    issued: Utc
    expires: Utc
    root: Root
    keys: dict[KeyId, PublicKeyEntry]
    roles: Roles
    models: tuple[GuardedModel, ...]
    one_person_may_train_evaluate_and_approve: bool = False
    least: Least | None = Field(default=None, exclude_if=_absent)

    def leasts(self, model: GuardedModel) -> tuple[Least, ...]:
        """What policies of ``model`` must promise: what the file asks of all, and what it asks of this model."""
        return tuple(least for least in (self.least, model.least) if least is not None)

    def guarded(self, name: str) -> GuardedModel | None:
        """The guarded model that some database would take ``name`` for, if any (``names.py``)."""
        index = position(name, self._names)
        return None if index is None else self.models[index]

    def looks_like(self, name: str) -> GuardedModel | None:
        """The guarded model that a reader may take ``name`` for, if any; more names than :meth:`guarded` finds."""
        index = look_alike(name, self._names)
        return None if index is None else self.models[index]

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)

    def keys_of(self, role: Role) -> tuple[PublicKey, ...]:
        """The public keys that may act as ``role``."""
        return self.public_keys(getattr(self.roles, role))

    def public_keys(self, key_ids: tuple[KeyId, ...]) -> tuple[PublicKey, ...]:
        """The public keys of these ids, as far as the file holds them.

        Raises:
            InvalidInput: what the file holds is no public key.
        """
        found = (self.keys[key_id] for key_id in key_ids if key_id in self.keys)
        return tuple(parse_public(entry.pem.encode("utf-8"), f"the key of {entry.person!r}") for entry in found)

    def person_of(self, key_id: str) -> str:
        """Who answers for a key; empty for an unknown one, which is nobody."""
        return self.keys[key_id].person if key_id in self.keys else ""

    def persons_of(self, key_ids: tuple[KeyId, ...]) -> tuple[str, ...]:
        """The different persons behind these keys, sorted; one person is one, however many keys they hold."""
        return tuple(sorted({self.person_of(key_id) for key_id in key_ids if key_id in self.keys}))
