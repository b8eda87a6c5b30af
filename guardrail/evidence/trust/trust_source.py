"""What a written trust file may say: closed, frozen types, one per section; keys by name, policies by file.

An unknown key is an error. Does not cover reading the file (``trust_yaml.py``) or whether it makes sense
(``trust_rules.py``).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from guardrail.evidence.trust.trust_types import BaseDigests, Least, LeastRate, LeastUtility, Person
from guardrail.names import Alias, ModelName
from guardrail.records import Frozen

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
WrittenText = Annotated[str, StringConstraints(min_length=1)]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class TrustSection(Frozen):
    """A mapping of the file; types are exact (``"5"`` is not 5)."""

    model_config = ConfigDict(strict=True)


class KeySource(TrustSection):
    """Whose key it is, and its file, relative to the trust file."""

    person: Person
    file: WrittenText


class RootSource(TrustSection):
    """As ``Root``, by the names of keys."""

    threshold: Annotated[int, Field(ge=1)]
    keys: tuple[Label, ...] = Field(min_length=1)
    previous: tuple[Label, ...] = ()


class RolesSource(TrustSection):
    """As ``Roles``, by the names of keys."""

    data: tuple[Label, ...] = ()
    train: tuple[Label, ...] = ()
    evaluate: tuple[Label, ...] = ()
    decide: tuple[Label, ...] = ()
    approve: tuple[Label, ...] = ()
    server: tuple[Label, ...] = ()


class AliasSource(TrustSection):
    """As ``ProtectedAlias``, by the policy's file or name."""

    alias: Alias
    policy: WrittenText
    approvals: Annotated[int, Field(ge=0)] = 0
    when_invalid: Literal["refuse", "warn"] = "refuse"


class ModelSource(TrustSection):
    """As ``GuardedModel``."""

    name: ModelName
    aliases: tuple[AliasSource, ...] = Field(min_length=1)
    bases: Annotated[BaseDigests, Field(min_length=1)] = ()
    least: Least | None = None


class TrustSource(TrustSection):
    """A whole trust file as it is written; it expires when the day ``expires`` begins (UTC)."""

    kind: Literal["TrustFile"]
    version: Annotated[int, Field(ge=1)]
    expires: Day
    root: RootSource
    keys: dict[Label, KeySource]
    roles: RolesSource
    models: tuple[ModelSource, ...] = Field(min_length=1)
    one_person_may_train_evaluate_and_approve: bool = False
    least: Least | None = None


LEAST: MappingProxyType[tuple[str, ...], type[Frozen]] = MappingProxyType(
    {
        ("least",): Least,
        ("least", "attack_success_rate"): LeastRate,
        ("least", "over_refusal_rate"): LeastRate,
        ("least", "utility"): LeastUtility,
    }
)
SECTIONS: MappingProxyType[tuple[str, ...], type[Frozen]] = MappingProxyType(
    {
        (): TrustSource,
        ("root",): RootSource,
        ("keys", "*"): KeySource,
        ("roles",): RolesSource,
        ("models", "*"): ModelSource,
        ("models", "*", "aliases", "*"): AliasSource,
        **LEAST,
        **{("models", "*", *place): section for place, section in LEAST.items()},
    }
)
"""Which type reads which mapping."""
