"""What is going on when a server of ``killed_servers.py`` dies: a promotion, a rollback, a last approval, and so on.

Not a test file. ``prepare`` makes one registry in which each of these is the next thing to do; each is done as a client
does it, over HTTP, and doing it again must always end as it would have without the kill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from gate_chains import proven, staged, vote
from killed_servers import Served, kept, now, recalled

from guardrail.errors import AwaitingApproval
from guardrail.evidence.bundle import Bundle
from guardrail.evidence.envelope import sign, unverified_payload
from guardrail.evidence.ledger import signed_ledger
from guardrail.evidence.ledger.entries import Entry
from guardrail.evidence.ledger.ledger_file import envelopes, read_head
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.orders import Revocation, Rollback

MODEL, WAITING, OTHER = "guarded", "waiting", "second"
ALIAS = "production"


class _Far(Exception):
    """The client has come as far as it should."""


def prepare(running: Served) -> None:
    """Two versions promoted, a candidate uploaded, one that waits for its last approval, orders signed."""
    place, who = running.place, running.place.people
    first, second = _bundle(running, MODEL, 1), _bundle(running, MODEL, 2)
    assert [_promote(running, first), _promote(running, second)] == ["1", "2"]
    manifest = first.decision.manifest
    candidate = _bundle(running, MODEL, 3)
    with suppress(_Far):
        _promote(running, candidate, until="version")
    waiting = _bundle(running, WAITING, 4)
    with suppress(AwaitingApproval):
        _promote(running, waiting)
    running.gate.submit(vote(waiting, who.approvers[0].private))
    late = staged(place.directory / "bundles" / "late", running.gate, who.signers, model=OTHER, seed=5, bind=False)
    denied = proven(place.directory / "bundles" / "denied", running.gate, who.signers, model=OTHER, seed=6, safe=False)
    key, head, period = who.approvers[0].private, running.gate.page().head, timedelta(days=1)
    assert head is not None
    times: dict[str, Any] = {"not_before": now() - timedelta(minutes=1), "expires": now() + period, "reason": "talks"}
    back = Rollback(
        model=MODEL, alias=ALIAS, from_version="2", to_version="1", manifest=manifest, ledger=head.digest, **times
    )
    kept(place, "candidate", candidate)
    kept(place, "last-vote", vote(waiting, who.approvers[1].private))
    kept(place, "rollback", sign(orders.build(back), key))
    kept(place, "revocation", sign(orders.build(Revocation(manifest=manifest, **times)), key))
    kept(place, "binding", late.stages["train"])
    kept(place, "denial", denied.envelope)


def promotion(running: Served) -> Any:
    """The candidate that is uploaded; its version."""
    return _promote(running, recalled(running.place, "candidate"))


def rollback(running: Served) -> Any:
    """The alias from version 2 to 1."""
    return _hand_in(running, "rollback")


def last_approval(running: Served) -> Any:
    """The approval that completes a promotion."""
    return _hand_in(running, "last-vote")


def revocation(running: Served) -> Any:
    """Version 1's adapter is out."""
    return _hand_in(running, "revocation")


def binding(running: Served) -> Any:
    """A ticket is bound to an adapter: an attempt."""
    return _hand_in(running, "binding")


def denial(running: Served) -> Any:
    """What the policy denied is written down."""
    return _hand_in(running, "denial")


HANDED = {f.__name__: f for f in (rollback, last_approval, revocation, binding, denial)}
WORKS: dict[str, Callable[[Served], Any]] = {"promotion": promotion, **HANDED}


def begun(running: Served) -> list[str]:
    """A server that has just started on what a kill left: what is wrong with it, in words; nothing should be."""
    place, registrar = running.place, running.registrar
    wrong = [f"{p.where}: {p.what} (nobody can finish it)" for p in running.gate.health().problems if not p.finish]
    wrong += [f"left behind: {path.name}" for path in place.artifacts.glob("sealed/.staging-*")]
    for model in (MODEL, WAITING, OTHER):
        good = {str(one.version) for one in registrar.beneath.versions(model) if _verifies(running, one)}
        bad = {str(one.version) for one in registrar.beneath.versions(model)} - good
        wrong += [f"{model} {version} has no evidence that verifies" for version in bad]
        points = registrar.beneath.aliases(model).get(ALIAS)
        if points is not None and points not in good:
            wrong.append(f"{model}@{ALIAS} points at {points}, which does not verify")
    return wrong


def summary(running: Served) -> dict[str, Any]:
    """Everything that must be the same, however often it was begun: versions, aliases, what the ledger holds."""
    place, registrar = running.place, running.registrar
    entries = [_entry(envelope) for envelope in envelopes(place.ledger)]
    keys = [place.people.server.public]
    checked = signed_ledger.verify(envelopes(place.ledger), keys, read_head(place.head), now=now())
    assert checked.head == read_head(place.head)
    models = (MODEL, WAITING, OTHER)
    return {
        "problems": [f"{p.where}: {p.what}" for p in running.gate.health().problems],
        "versions": {m: [str(one.version) for one in registrar.beneath.versions(m)] for m in models},
        "aliases": {m: registrar.beneath.aliases(m) for m in models},
        "entries": sorted(Counter(f"{e.kind} {e.model} {e.version} {e.subject[:8]}" for e in entries).items()),
        "attempts": sorted((*at, n) for at, n in registrar.journal.state().attempts.items()),
        "sealed": len([path for path in (place.artifacts / "sealed").iterdir() if not path.name.startswith(".")]),
        "left": [p.name for p in place.ledger.parent.iterdir() if p.name.startswith(".") or p.suffix == ".pending"],
    }


def _verifies(running: Served, version: Any) -> bool:
    from guardrail.errors import GuardrailError
    from guardrail.gate.sealed.tree import sealed_digest
    from guardrail.registry.verify.evidence_checks import examine

    try:
        directory = running.place.artifacts / "sealed" / sealed_digest(str(version.source))
        examined = examine(directory, [running.place.people.decider.public])
    except GuardrailError:
        return False
    return examined.decision.model == str(version.name)


def _entry(envelope: bytes) -> Entry:
    return Entry.model_validate_json(unverified_payload(envelope, payload_type=signed_ledger.LEDGER_TYPE))


def _bundle(running: Served, model: str, seed: int) -> Bundle:
    place = running.place.directory / "bundles" / str(seed)
    return proven(place, running.gate, running.place.people.signers, model=model, seed=seed)


def _promote(running: Served, bundle: Bundle, until: str = "") -> str:
    from guardrail.registry.record.promote import promote

    def step(name: str) -> None:
        if name == until:
            raise _Far

    key = running.place.people.decider.private
    return str(promote(bundle, tracking_uri=running.uri, private_key=key, now=now(), on_step=step).version)


def _hand_in(running: Served, name: str) -> Any:
    found = running.gate.submit(recalled(running.place, name))
    return [found.state, found.version, found.attempt]
