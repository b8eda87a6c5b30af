"""Tickets on the gate's real parts: for a key that may ask, so many, bound by whom the request names; else no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gate_chains import drawn, proven, staged, vote
from gate_parts import Parts, parts
from gate_trust import Person, person, signed
from hypothesis import given
from hypothesis import strategies as st
from registry_bundles import POLICY

from guardrail.errors import EvidenceInvalid, GuardrailError, InvalidInput
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import add_signature, sign
from guardrail.evidence.keys.key_pairs import PrivateKey
from guardrail.evidence.ledger.entries import Entry
from guardrail.evidence.statements import orders
from guardrail.evidence.statements.ticket_requests import (
    HOLDS,
    MOST_KEYS,
    TICKET_REQUEST_TYPE,
    TicketRequest,
    read_request,
    signed_request,
)
from guardrail.evidence.statements.tickets import LIFETIME, Ticket
from guardrail.evidence.trust.trust_file import CLOCKS_DIFFER, PublicKeyEntry
from guardrail.gate.ledger.journal import draft
from guardrail.gate.ledger.open_tickets import Holder, OpenTickets
from guardrail.gate.ticket_office import MOST_OPEN, OPEN, issue, most_open

pytestmark = pytest.mark.slow

MODEL, OTHER, ALIAS = "guarded", "second", "production"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Parts]:
    with parts(tmp_path / "gate") as made:
        made.registrar.court()  # the trust file's own entry
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """For tests that must not change it."""
    with parts(tmp_path_factory.mktemp("shared") / "gate") as made:
        made.registrar.court()
        yield made


@dataclass
class Crowd:
    """Two trainers, one of them with two keys, and one who only prepares data, beside the usual people."""

    gate: Parts
    persons: dict[str, Person] = field(default_factory=dict)

    def key(self, name: str) -> PrivateKey:
        return self.persons[name].private

    def id(self, name: str) -> str:
        return str(self.persons[name].public.keyid)

    def trust(self, version: int, *, without: str = "") -> None:
        """A trust file in which all of them have their roles, but one."""
        who, here = self.gate.who, {name: one for name, one in self.persons.items() if name != without}
        base = _trust(who.trust(version=version))
        entries = {one.public.keyid: _entry(one, name) for name, one in here.items()}
        train = tuple(here[name].public.keyid for name in ("theo", "theo-laptop", "vera") if name in here)
        data = tuple(here[name].public.keyid for name in ("dana",) if name in here)
        roles = base.roles.model_copy(update={"data": (*base.roles.data, *data), "train": (*base.roles.train, *train)})
        who.write(signed(base.model_copy(update={"keys": {**base.keys, **entries}, "roles": roles}), who.root))
        self.gate.registrar.court()


def _trust(data: bytes) -> Any:
    from guardrail.evidence.trust.trust_file import read_unverified_trust

    return read_unverified_trust(data)


def _entry(one: Person, name: str) -> PublicKeyEntry:
    return PublicKeyEntry(person=name.removesuffix("-laptop"), pem=one.public_file.read_text())


@pytest.fixture
def crowd(gate: Parts) -> Crowd:
    return gathered(gate)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """For tests that only draw tickets, less than a key may hold."""
    with parts(tmp_path_factory.mktemp("lasting") / "gate") as made:
        yield gathered(made)


def gathered(gate: Parts) -> Crowd:
    made = Crowd(gate)
    for name in ("theo", "theo-laptop", "vera", "dana"):
        made.persons[name] = person(gate.folder / "crowd", name)
    made.trust(2)
    return made


def left(gate: Parts) -> dict[str, bytes]:
    """Everything that the gate ever wrote down: ledger, head, statements."""
    return {path.name: path.read_bytes() for path in (gate.folder / "ledger").rglob("*") if path.is_file()}


def request(gate: Parts, **changes: Any) -> bytes:
    """A request by the usual trainer, in which fields are otherwise."""
    now = datetime.now(UTC)
    asked = TicketRequest(
        alias=ALIAS,
        bind=(gate.who.root.public.keyid,),
        expires=now + HOLDS,
        model=MODEL,
        not_before=now,
        request=sha256(b"drawn"),
    ).model_copy(update=changes)
    return sign(canonical(asked), gate.who.root.private, payload_type=TICKET_REQUEST_TYPE)


def by(key: PrivateKey, **given: Any) -> bytes:
    return signed_request(MODEL, ALIAS, key, now=datetime.now(UTC), **given)


def at(**delta: float) -> datetime:
    return datetime.now(UTC) + timedelta(**delta)


def swapped(envelope: bytes, old: bytes, new: bytes) -> bytes:
    """Another payload under the same signature."""
    from base64 import b64decode, b64encode
    from json import dumps, loads

    form = loads(envelope)
    form["payload"] = b64encode(b64decode(form["payload"]).replace(old, new)).decode()
    return dumps(form, separators=(",", ":")).encode()


FLOODS: dict[str, tuple[Callable[[Parts], bytes], str]] = {
    "unsigned, as it was asked before": (lambda _: b'{"alias":"production","model":"guarded"}', "no signed request"),
    "nothing": (lambda _: b"", "no signed request"),
    "an envelope without a signature": (
        lambda _: b'{"payload":"e30=","payloadType":"%s","signatures":[]}' % TICKET_REQUEST_TYPE.encode(),
        "request",
    ),
    "a stranger's key": (lambda g: by(g.who.stranger.private), "which was not given"),
    "a stranger who names a trainer": (
        lambda g: by(g.who.stranger.private, bind=[g.who.root.public.keyid]),
        "which was not given",
    ),
    "the key of who evaluates and decides": (lambda g: by(g.who.decider.private), "which was not given"),
    "the key of who approves": (lambda g: by(g.who.approvers[0].private), "which was not given"),
    "the server's own key": (lambda g: by(g.who.server.private), "which was not given"),
    "a trainer's signature beside a stranger's": (
        lambda g: add_signature(request(g), g.who.stranger.private, payload_type=TICKET_REQUEST_TYPE),
        "not given",
    ),
    "signed as another kind of statement": (
        lambda g: sign(canonical(read_request(request(g))), g.who.root.private),
        "the envelope holds",
    ),
    "another alias under the signature": (lambda g: swapped(request(g), b"production", b"production2"), "not match"),
    "another model under the signature": (lambda g: swapped(request(g), b"guarded", b"second"), "does not match"),
    "a line break behind it": (lambda g: request(g) + b"\n", "canonical form"),
    "expired": (lambda g: request(g, not_before=at(hours=-2), expires=at(hours=-1.5)), "expired at"),
    "from the future": (lambda g: request(g, not_before=at(hours=1), expires=at(hours=1.5)), "holds only from"),
    "one that holds for days": (lambda g: request(g, expires=at(days=3)), "holds for at most"),
    "one that ends before it begins": (lambda g: request(g, expires=at(hours=-1)), "holds for at most"),
    "a model that is not guarded": (lambda g: request(g, model="innocent"), "is not guarded"),
    "a guarded model in another spelling": (lambda g: request(g, model="Guarded"), "is not guarded"),
    "an alias that is not protected": (lambda g: request(g, alias="staging"), "is not in the trust file"),
    "an alias in another spelling": (lambda g: request(g, alias="Production"), "is not in the trust file"),
    "nobody who may train is named": (lambda g: request(g, bind=(g.who.decider.public.keyid,)), "nobody could bind"),
    "a key that nobody knows is named": (lambda g: request(g, bind=("0" * 64,)), "nobody could bind"),
    "a key named twice": (lambda g: request(g, bind=(g.who.root.public.keyid,) * 2), "named twice"),
    "many keys named": (
        lambda g: request(g, bind=tuple(sorted(sha256(b"%d" % n) for n in range(MOST_KEYS + 1)))),
        "makes no sense",
    ),
    "a version of the form that is not known": (lambda g: request(g, schema_version=2), "makes no sense"),
    "no number of its own": (lambda g: request(g, request=""), "makes no sense"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_request_that_may_not_be_made_leaves_no_trace(shared: Parts, flood: str) -> None:
    make, why = FLOODS[flood]
    before = left(shared)
    for _ in range(3):
        with pytest.raises(EvidenceInvalid, match=why):
            shared.ticket(make(shared))
    assert left(shared) == before


def test_whoever_asks_without_a_signature_is_told_what_to_do(gate: Parts) -> None:
    with pytest.raises(EvidenceInvalid) as found:
        gate.ticket(b'{"alias":"production","model":"guarded"}')
    assert "--sign-key" in found.value.next_step


def test_one_request_gives_one_ticket_however_often_and_by_whomever_it_is_handed_in(gate: Parts) -> None:
    asked = request(gate)
    first, before = gate.ticket(asked), left(gate)
    assert [gate.ticket(asked) for _ in range(3)] == [first] * 3
    assert left(gate) == before
    assert gate.ticket(by(gate.who.root.private)).nonce != first.nonce


def test_the_entry_names_the_key_and_the_request_lies_beside_the_ledger(gate: Parts) -> None:
    asked = request(gate)
    ticket = gate.ticket(asked)
    state = gate.registrar.journal.state()
    assert gate.registrar.journal.statement(state.open.requests[ticket.nonce]) == asked
    assert state.open.of(Holder(gate.who.root.public.keyid, MODEL, ALIAS), at()) == (ticket.expires,)


def fill(gate: Parts, key: PrivateKey, **given: Any) -> list[Ticket]:
    """As many tickets as a key may hold."""
    return [gate.ticket(by(key, **given)) for _ in range(MOST_OPEN)]


def test_a_key_holds_so_many_tickets_for_an_alias_and_takes_none_from_anybody_else(crowd: Crowd) -> None:
    gate = crowd.gate
    fill(gate, crowd.key("theo"))
    before = left(gate)
    for _ in range(3):
        with pytest.raises(EvidenceInvalid, match=f"holds {MOST_OPEN} tickets for guarded@production") as found:
            gate.ticket(by(crowd.key("theo")))
    assert "expires at" in found.value.next_step
    assert left(gate) == before
    for key in ("theo-laptop", "vera"):
        gate.ticket(by(crowd.key(key)))
    gate.ticket(by(crowd.key("dana"), bind=[crowd.id("theo")]))
    gate.ticket(signed_request(OTHER, ALIAS, crowd.key("theo"), now=at()))


def test_a_ticket_that_is_spent_or_expired_makes_room_and_one_that_is_bound_does_not(gate: Parts) -> None:
    tickets = fill(gate, gate.who.root.private)
    denied = proven(gate.folder / "denied", gate, gate.who.signers, safe=False, ticket=tickets[0])
    with pytest.raises(EvidenceInvalid, match="holds 32"):
        gate.ticket(by(gate.who.root.private))
    gate.submit(denied.envelope)
    gate.ticket(by(gate.who.root.private))
    with pytest.raises(EvidenceInvalid, match="holds 32"):
        gate.ticket(by(gate.who.root.private))
    later, court = datetime.now(UTC) + LIFETIME, gate.registrar.court()
    asked = signed_request(MODEL, ALIAS, gate.who.root.private, now=later)
    issue(gate.registrar.journal, court.trust, asked, later)


def _trained(crowd: Crowd, ticket: Ticket, trainer: str, seed: int = 0) -> None:
    """A train statement by this trainer, handed in."""
    signers = crowd.gate.who.signers | {"train": crowd.key(trainer), "data": crowd.gate.who.root.private}
    staged(crowd.gate.folder / f"{trainer}-{ticket.nonce[:8]}-{seed}", crowd.gate, signers, ticket=ticket, seed=seed)


BINDINGS: dict[str, Callable[[Crowd], tuple[bytes, str]]] = {
    "a trainer's own": lambda c: (by(c.key("theo")), "vera"),
    "one that names another trainer": lambda c: (by(c.key("dana"), bind=[c.id("theo")]), "vera"),
    "one that the same trainer asked for somebody else": lambda c: (by(c.key("vera"), bind=[c.id("theo")]), "vera"),
    "one of the usual trainer": lambda c: (by(c.gate.who.root.private), "theo"),
    "one for another of the trainer's keys": lambda c: (by(c.key("theo-laptop")), "vera"),
}


@pytest.mark.parametrize("whose", BINDINGS)
def test_somebody_elses_ticket_is_not_bound(lasting: Crowd, whose: str) -> None:
    asked, trainer = BINDINGS[whose](lasting)
    ticket = lasting.gate.ticket(asked)
    before = left(lasting.gate)
    for seed in (0, 1):
        with pytest.raises(EvidenceInvalid, match="the ticket was asked for"):
            _trained(lasting, ticket, trainer, seed)
    assert left(lasting.gate) == before


def test_a_ticket_is_bound_by_any_train_key_of_the_persons_that_its_request_names(lasting: Crowd) -> None:
    crowd, before = lasting, len(lasting.gate.registrar.journal.state().bound)
    both = sorted((crowd.id("theo"), crowd.id("vera")))
    for seed, (asked, trainer) in enumerate(
        [
            (by(crowd.key("theo")), "theo"),
            (by(crowd.key("theo")), "theo-laptop"),
            (by(crowd.key("dana"), bind=both), "vera"),
            (by(crowd.key("dana"), bind=both), "theo"),
        ]
    ):
        _trained(crowd, crowd.gate.ticket(asked), trainer, seed)
    assert len(crowd.gate.registrar.journal.state().bound) == before + 4


def test_who_prepares_data_must_name_who_trains(lasting: Crowd) -> None:
    with pytest.raises(EvidenceInvalid, match="nobody could bind") as found:
        lasting.gate.ticket(by(lasting.key("dana")))
    assert "--train-key" in found.value.next_step


def test_who_left_the_trust_file_asked_in_vain(crowd: Crowd) -> None:
    ticket = crowd.gate.ticket(by(crowd.key("dana"), bind=[crowd.id("theo")]))
    crowd.trust(3, without="dana")
    with pytest.raises(EvidenceInvalid, match="which was not given"):
        _trained(crowd, ticket, "theo")


def test_a_trainer_who_left_the_trust_file_binds_nothing(crowd: Crowd) -> None:
    ticket = crowd.gate.ticket(by(crowd.key("dana"), bind=sorted((crowd.id("theo"), crowd.id("vera")))))
    crowd.trust(3, without="vera")
    with pytest.raises(EvidenceInvalid):
        _trained(crowd, ticket, "vera")
    _trained(crowd, ticket, "theo")


def test_a_ticket_from_before_requests_were_signed_is_bound_by_nobody(lasting: Crowd) -> None:
    crowd = lasting
    nonce = sha256(b"old")
    crowd.gate.registrar.journal.append(lambda _: draft("proposal", model=MODEL, alias=ALIAS, nonce=nonce))
    issued = crowd.gate.registrar.journal.state().tickets[nonce]
    old = Ticket(
        model=MODEL,
        alias=ALIAS,
        nonce=nonce,
        issued=issued.issued,
        expires=issued.issued + LIFETIME,
        ledger=issued.head.digest,
    )
    with pytest.raises(EvidenceInvalid, match="before requests were signed"):
        _trained(crowd, old, "theo")


def test_a_request_that_was_changed_on_the_disk_binds_nothing(gate: Parts) -> None:
    ticket = gate.ticket(request(gate))
    digest = gate.registrar.journal.state().open.requests[ticket.nonce]
    (gate.folder / "ledger" / "ledger.statements" / f"{digest}.dsse.json").write_bytes(by(gate.who.root.private))
    with pytest.raises(EvidenceInvalid, match="was changed"):
        staged(gate.folder / "a", gate, gate.who.signers, ticket=ticket)


def _order(gate: Parts, **changes: Any) -> bytes:
    head = gate.registrar.journal.end()
    given: dict[str, Any] = {
        "model": MODEL,
        "alias": ALIAS,
        "from_version": "2",
        "to_version": "1",
        "manifest": sha256(b"x"),
        "ledger": head.digest,
        "reason": "it talks",
        "not_before": at(hours=-1),
        "expires": at(hours=1),
    }
    return sign(orders.build(orders.Rollback(**{**given, **changes})), gate.who.approvers[0].private)


REFUSED: dict[str, Callable[[Parts], bytes]] = {
    "an order of versions that are not there": _order,
    "an order about a model that is not guarded": lambda g: _order(g, model="innocent"),
    "an order about an alias that is not protected": lambda g: _order(g, alias="staging"),
    "an order that expired": lambda g: _order(g, expires=at(minutes=-30)),
    "an order by a stranger": lambda g: sign(
        orders.build(
            orders.Revocation(manifest=sha256(b"x"), reason="no", not_before=at(hours=-1), expires=at(hours=1))
        ),
        g.who.stranger.private,
    ),
    "a vote about nothing": lambda g: vote(_admitted(g, "vote"), g.who.approvers[0].private),
    "a train statement by a stranger": lambda g: _stage(g, "train", g.who.stranger.private),
    "a data statement by itself": lambda g: _stage(g, "data", g.who.root.private),
    "a denial by a stranger": lambda g: (
        proven(g.folder / "d", g, {**g.who.signers, "decide": g.who.stranger.private}, safe=False, bind=False).envelope
    ),
    "a denial without a bound ticket": lambda g: (
        proven(g.folder / "e", g, g.who.signers, safe=False, bind=False).envelope
    ),
    "a denial under another policy": lambda g: (
        proven(
            g.folder / "f",
            g,
            g.who.signers,
            safe=False,
            bind=False,
            policy_text=POLICY.replace("name: test", "name: harsher"),
        ).envelope
    ),
    "no envelope": lambda _: b"{}",
}


def _admitted(gate: Parts, name: str) -> Any:
    return proven(gate.folder / name, gate, gate.who.signers, bind=False)


def _stage(gate: Parts, stage: str, key: PrivateKey) -> bytes:
    signers = gate.who.signers | {stage: key}
    bundle = staged(gate.folder / stage, gate, signers, ticket=drawn(gate, gate.who.signers), bind=False)
    return bundle.stages[stage]


@pytest.mark.parametrize("what", REFUSED)
def test_a_statement_that_is_refused_leaves_no_trace(shared: Parts, what: str) -> None:
    envelope = REFUSED[what](shared)
    before = left(shared)
    for _ in range(2):
        with pytest.raises(GuardrailError):
            shared.submit(envelope)
    assert left(shared) == before


def test_signed_evidence_that_somebody_proposes_elsewhere_leaves_no_trace(gate: Parts) -> None:
    """Decisions can be read by anybody, and a proposal carries no key."""
    foreign = proven(gate.folder / "foreign", gate, gate.who.signers, model=OTHER, safe=False)
    unbound = proven(gate.folder / "unbound", gate, gate.who.signers, seed=3, bind=False)
    before = left(gate)
    for bundle in (foreign, unbound):
        gate.logged["m-copied"] = bundle
        with pytest.raises(EvidenceInvalid):
            gate.registrar.propose(gate.registrar.guarded_model(MODEL), "models:/m-copied", {})
    assert left(gate) == before
    gate.logged["m-own"] = foreign
    with pytest.raises(EvidenceInvalid):
        gate.registrar.propose(gate.registrar.guarded_model(OTHER), "models:/m-own", {})
    assert left(gate) != before, "what was tried here and refused is written down"


@dataclass
class Plain:
    """The same question, answered from all entries each time."""

    entries: list[Entry] = field(default_factory=list)

    def of(self, holder: Holder, now: datetime) -> tuple[datetime, ...]:
        spent = {e.nonce for e in self.entries if e.kind in ("decision", "denial") and e.evidence}
        held = [
            e
            for e in self.entries
            if e.kind == "proposal"
            and not e.subject
            and e.statement
            and e.nonce not in spent
            and Holder(e.note, e.model, e.alias) == holder
            and now < e.time + LIFETIME
        ]
        return tuple(sorted(e.time + LIFETIME for e in held))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "bind", "denial", "decision", "unsigned"]),
            st.integers(0, 6),
            st.sampled_from(["k", "l"]),
            st.sampled_from([MODEL, OTHER]),
            st.integers(0, 4),
        ),
        max_size=30,
    )
)
def test_tickets_are_counted_as_the_ledger_says(steps: list[tuple[Any, int, str, str, int]]) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    plain, counted, now, asked = Plain(), OpenTickets(), start, set[str]()
    for number, (step, nonce, key, model, days) in enumerate(steps, start=1):
        now += timedelta(days=days)
        what: dict[str, Any] = {"kind": "proposal", "nonce": str(nonce)}
        if step in ("denial", "decision"):
            if str(nonce) not in asked:
                continue  # nothing is spent that was not issued
            what |= {"kind": step, "evidence": sha256(b"e")}
        elif step == "bind":
            what |= {"subject": sha256(b"a"), "statement": sha256(b"s")}
        elif str(nonce) in asked:
            continue  # a nonce is drawn once
        else:
            asked.add(str(nonce))
            what |= {"note": key, "statement": sha256(str(number).encode())} if step == "ask" else {}
        entry = Entry(number=number, previous="0" * 64, time=now, model=model, alias=ALIAS, **what)
        plain.entries.append(entry)
        counted.take(entry)
    for key in ("k", "l"):
        for model in (MODEL, OTHER):
            holder = Holder(key, model, ALIAS)
            assert counted.of(holder, now) == plain.of(holder, now)


def test_a_request_may_be_made_by_a_clock_that_is_a_little_ahead(gate: Parts) -> None:
    ahead = CLOCKS_DIFFER - timedelta(seconds=30)
    assert gate.ticket(request(gate, not_before=at() + ahead, expires=at() + ahead + timedelta(minutes=1)))


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "\u0661", "10000000"])
def test_a_number_of_open_tickets_that_is_none_starts_no_server(text: str) -> None:
    assert most_open({}) == MOST_OPEN
    assert most_open({OPEN: "64"}) == 64
    with pytest.raises(InvalidInput, match=OPEN):
        most_open({OPEN: text})
