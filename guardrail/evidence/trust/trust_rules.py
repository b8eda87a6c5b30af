"""What a trust file must not say: every problem at once, each with the place in the file.

Persons are compared, not keys: whoever trains must not evaluate or approve with another key, or under another spelling
of the same name. The one way around is ``one_person_may_train_evaluate_and_approve``, which every record shows. Names
that only look alike (a Cyrillic letter, ``l`` and ``1``) are refused as well: persons read the file before they sign.
Not covered: signatures and times against the clock (``trust_file.py``); that two names are in truth one human being.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guardrail.errors import InvalidInput
from guardrail.evidence.keys.key_pairs import parse_public, public_pem
from guardrail.evidence.trust.trust_types import ROLES, GuardedModel, KeyId, Role, Trust
from guardrail.names import not_plain, repeated, repeated_looks, same

DocumentPlace = tuple[str | int, ...]
REQUIRED: tuple[Role, ...] = ("data", "train", "evaluate", "decide", "server")
APART_FROM_TRAINING: tuple[Role, ...] = ("evaluate", "decide", "approve", "server")


@dataclass(frozen=True)
class TrustProblem:
    """What is wrong, and where: a path of keys and positions from the root of the file."""

    place: DocumentPlace
    text: str

    def __str__(self) -> str:
        where = ".".join(str(part) for part in self.place) or "the file"
        return f"{where}: {self.text}"


def problems(trust: Trust) -> tuple[TrustProblem, ...]:
    """Everything wrong with it; empty for a file that makes sense."""
    return (
        *_times(trust),
        *_keys(trust),
        *_persons(trust),
        *_root(trust),
        *_roles(trust),
        *_apart(trust),
        *_models(trust),
    )


def _times(trust: Trust) -> Iterator[TrustProblem]:
    if not trust.issued < trust.expires:
        yield TrustProblem(("expires",), f"it expires at {trust.expires}, but was issued at {trust.issued}")


def _keys(trust: Trust) -> Iterator[TrustProblem]:
    for key_id, entry in trust.keys.items():
        try:
            key = parse_public(entry.pem.encode("utf-8"), f"the key of {entry.person!r}")
        except InvalidInput as error:
            yield TrustProblem(("keys", key_id), error.got)
            continue
        if key.keyid != key_id or public_pem(key) != entry.pem:
            yield TrustProblem(("keys", key_id), f"the key of {entry.person!r} has the id {key.keyid}, or another PEM")


def _persons(trust: Trust) -> Iterator[TrustProblem]:
    """A person has one name, plain and spelled in one way, and so is one person everywhere below."""
    first: dict[str, KeyId] = {}
    for key_id, entry in trust.keys.items():
        first.setdefault(entry.person, key_id)
    names = list(first)
    for name in names:
        if why := not_plain(name):
            yield TrustProblem(("keys", first[name], "person"), f"the person {name!a} {why}")
    for later, why in _mistakable(names, "are one name: spell a person in one way"):
        yield TrustProblem(("keys", first[names[later]], "person"), why)


def _root(trust: Trust) -> Iterator[TrustProblem]:
    yield from _listed(trust, trust.root.keys, ("root", "keys"))
    yield from _listed(trust, trust.root.previous, ("root", "previous"))
    able = len(trust.persons_of(trust.root.keys))
    if trust.root.threshold > able:
        yield TrustProblem(("root", "threshold"), f"asks for {trust.root.threshold} persons, the root has {able}")


def _roles(trust: Trust) -> Iterator[TrustProblem]:
    for role in ROLES:
        key_ids: tuple[KeyId, ...] = getattr(trust.roles, role)
        yield from _listed(trust, key_ids, ("roles", role))
        if role in REQUIRED and not key_ids and trust.models:
            yield TrustProblem(("roles", role), f"nobody may {role}, so nothing could ever be promoted")


def _listed(trust: Trust, key_ids: tuple[KeyId, ...], place: DocumentPlace) -> Iterator[TrustProblem]:
    for index, key_id in enumerate(key_ids):
        if key_id not in trust.keys:
            yield TrustProblem((*place, index), f"the key {key_id} is not described under 'keys'")
        if key_id in key_ids[:index]:
            yield TrustProblem((*place, index), f"the key {key_id} is listed twice")


def _apart(trust: Trust) -> Iterator[TrustProblem]:
    if trust.one_person_may_train_evaluate_and_approve:
        return
    trainers = trust.persons_of(trust.roles.train)
    for role in APART_FROM_TRAINING:
        for person in trust.persons_of(getattr(trust.roles, role)):
            if any(same(person, trainer) for trainer in trainers):
                yield TrustProblem(("roles", role), f"{person!a} trains, and must not {role} as well")


def _models(trust: Trust) -> Iterator[TrustProblem]:
    names = [model.name for model in trust.models]
    for later, why in _mistakable(names, "are one name to some databases"):
        yield TrustProblem(("models", later, "name"), why)
    for index, model in enumerate(trust.models):
        if why := not_plain(model.name):
            yield TrustProblem(("models", index, "name"), f"the model's name {model.name!a} {why}")
        yield from _aliases(trust, model, ("models", index, "aliases"))


def _aliases(trust: Trust, model: GuardedModel, place: DocumentPlace) -> Iterator[TrustProblem]:
    names = [entry.alias for entry in model.aliases]
    for later, why in _mistakable(names, "are one alias to some databases"):
        yield TrustProblem((*place, later, "alias"), why)
    able = len(trust.persons_of(trust.roles.approve))
    for index, entry in enumerate(model.aliases):
        if entry.approvals > able:
            yield TrustProblem(
                (*place, index, "approvals"), f"asks for {entry.approvals} approvals, {able} may approve"
            )


def _mistakable(names: Sequence[str], if_one: str) -> Iterator[tuple[int, str]]:
    """Every name that is an earlier one, or looks like it, and why."""
    one = repeated(names)
    for later, earlier in repeated_looks(names).items():
        what = if_one if later in one else "look alike: choose names that nobody mistakes for one another"
        yield later, f"{names[later]!a} and {names[one.get(later, earlier)]!a} {what}"
