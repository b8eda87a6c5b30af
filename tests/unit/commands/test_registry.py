"""``guardrail registry`` and ``guardrail ledger fetch``: what a server holds, what happened, and orders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_cast import trust_file
from gate_world import Said, World, say, world

from guardrail.commands._registry_text import age
from guardrail.evidence.digest import canonical, sha256
from guardrail.evidence.envelope import sign, verify
from guardrail.registry.gate.protocol import RegistryProblem

pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path: Path) -> Iterator[World]:
    """A server with two versions; the alias points at the second."""
    with world(tmp_path) as made:
        made.admit()
        made.admit(seed=1)
        yield made


def rollback(made: World, who: str = "ana", *more: object) -> Said:
    what = more or ("guarded@production", "--to", "1", "--reason", "the second one rambles")
    return say("registry", "rollback", *what, *made.key(who), *made.server, "--yes")


def states(made: World, *more: object) -> list[tuple[str, str]]:
    said = say("registry", "list", *made.server, "--output", "json", *more)
    assert said.code == 0, said.out
    return [(row["version"], row["state"]) for row in json.loads(said.stdout)["rows"]]


def test_list_shows_where_every_alias_stands(two: World) -> None:
    said = say("registry", "list", *two.by_trust, *two.server)
    assert said.code == 0, said.out
    assert "MODEL    ALIAS       VERSION  VERDICT" in said.out
    assert "each signed by the server" in said.out
    assert states(two) == [("2", "ok")]
    two.gate.aliases["production"] = "1"
    assert states(two) == [("1", "moved")]


def test_list_says_that_a_version_is_revoked(two: World) -> None:
    say("registry", "revoke", "--yes", "guarded@production", *two.key("ana"), "--reason", "it leaks", *two.server)
    assert states(two) == [("2", "revoked")]


def test_list_shows_everything_that_was_revoked_with_its_versions_when_and_why(two: World) -> None:
    assert "nothing was revoked" in say("registry", "list", "--revoked", *two.server).out
    say("registry", "revoke", "--yes", "guarded/1", *two.key("ana"), "--reason", "it leaks", *two.server)
    say("registry", "revoke", "--yes", "ab" * 32, *two.key("ben"), "--reason", "never seen here", *two.server)
    said = say("registry", "list", "--revoked", *two.by_trust, *two.server)
    assert said.code == 0, said.out
    assert "MODEL    ALIAS       VERSIONS  ADAPTER" in said.out
    assert "each signed by the server" in said.out
    found = json.loads(say("registry", "list", "--revoked", *two.server, "--output", "json").stdout)["revoked"]
    assert [(one["model"], one["versions"], one["reason"]) for one in found] == [
        ("guarded", ["1"], "it leaks"),
        ("", [], "never seen here"),
    ]


def test_list_says_that_a_number_holds_other_evidence_and_that_the_server_refuses_an_alias(two: World) -> None:
    two.gate.versions["2"] = two.gate.versions["1"] | {"version": "2"}
    assert states(two) == [("2", "moved")]


def test_list_says_that_a_version_has_expired_and_that_an_alias_is_empty(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        assert states(made) == []
        assert states(made, *made.by_trust) == [("", "empty")]
        made.admit(ago=timedelta(days=31))
        assert states(made) == [("1", "expired")]


def test_what_waits_is_listed_with_for_how_long_and_who_agreed(tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        assert "nothing waits" in say("registry", "waiting", *made.server).out
        evidence = made.admit()
        made.gate.candidates[evidence].since -= timedelta(days=2, hours=3)
        words = ("approve", "guarded@production", *made.by_trust, "--yes", "--reason", "read it")
        assert say(*words, *made.key("ana"), *made.server).code == 0
        said = say("registry", "waiting", *made.server)
        assert said.code == 0, said.out
        for told in (
            "guarded@production  waits for 2 d 3 h, since",
            "1 of 2: ana",
            evidence,
            f"{made.gate.uri}/#/experiments/1/runs/",
            "guardrail approve guarded@production",
        ):
            assert told in said.out
        (row,) = json.loads(say("registry", "waiting", "guarded", *made.server, "--output", "json").stdout)["waiting"]
        assert (row["evidence"], row["approvals"], row["approved_by"]) == (evidence, 2, ["ana"])
        assert row["seconds"] >= 51 * 3600
        assert "nothing waits" in say("registry", "waiting", "another", *made.server).out


def test_list_says_of_an_empty_alias_that_something_waits_for_it(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.admit()
        said = say("registry", "list", *made.by_trust, *made.server)
        assert "empty, 1 waiting" in said.out
        assert "1 waits for persons to approve: guardrail registry waiting" in said.out
        row = json.loads(say("registry", "list", *made.server, "--output", "json").stdout)["rows"][0]
        assert (row["state"], row["waits"]) == ("empty", 1)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 min"), (59, "0 min"), (3600, "1 h 0 min"), (3661 * 24, "1 d 0 h"), (90061, "1 d 1 h")]
)
def test_for_how_long_is_told_in_two_units(seconds: int, told: str) -> None:
    assert age(seconds) == told


def test_show_tells_an_auditor_everything(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.made(1)
        made.admit()
        say(
            "approve",
            "guarded@production",
            *made.by_trust,
            *made.key("ana"),
            "--yes",
            "--reason",
            "read it",
            *made.server,
        )
        said = say("registry", "show", "guarded@production", *made.by_trust, *made.server)
        assert said.code == 0, said.out
        for told in (
            "verifies now",
            "1/4000 [",
            "evaluate by evaluator",
            "decided by  decider",
            "approved by ana at",
            "read it",
            "attempt     2; 2 adapters",
        ):
            assert told in said.out
        record = json.loads(
            say("registry", "show", "guarded/1", *made.by_trust, *made.server, "--output", "json").stdout
        )
        assert record["evaluation"]["kind"] == "evaluation-report"
        assert record["votes"][0]["persons"] == ["ana"]


def test_show_tells_of_a_revoked_version_too_and_by_a_key_alone_what_is_not_checked(two: World) -> None:
    say("registry", "revoke", "--yes", "guarded/2", *two.key("ana"), "--reason", "it leaks", *two.server)
    assert "REFUSED: the adapter" in say("registry", "show", "guarded/2", *two.by_trust, *two.server).out
    said = say("registry", "show", "guarded/2", "--key", two.who["decider"].public_file, *two.server)
    assert "NOT CHECKED" in said.out
    assert f"data by     key {two.who['trainer'].public.keyid}" in said.out


def test_show_reads_each_file_and_the_ledger_once(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer = two.gate.answer

    def noted(method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        asked.append(f"{path} {query}")
        return answer(method, path, query, body)

    monkeypatch.setattr(two.gate, "answer", noted)
    said = say("registry", "show", "guarded@production", *two.by_trust, *two.server)
    assert "verifies now" in said.out
    assert len([call for call in asked if "adapter_model.safetensors" in call]) == 1
    assert sorted(set(asked)) == sorted(asked)


def test_show_by_a_key_tells_that_the_server_resolves_the_alias_no_more(two: World) -> None:
    say("registry", "revoke", "--yes", "guarded/2", *two.key("ana"), "--reason", "it leaks", *two.server)
    by_key = ("--key", two.who["decider"].public_file)
    said = say("registry", "show", "guarded@production", *by_key, *two.server)
    assert said.code == 0, said.out
    assert "version 2" in said.out
    assert "REFUSED: " in said.out
    assert "was revoked" in said.out


def test_show_says_of_a_model_that_the_trust_file_does_not_guard_that_it_does_not(two: World) -> None:
    trust = two.who.trust(datetime.now(UTC))
    other = trust.models[0].model_copy(update={"name": "another"})
    trust_file(two.folder, two.who, trust.model_copy(update={"models": (other,)}))
    said = say("registry", "show", "guarded/2", *two.by_trust, *two.server)
    assert said.code == 0, said.out
    assert "REFUSED: 'guarded@production' is not guarded by the trust file" in said.out


def test_show_refuses_evidence_that_does_not_hold(two: World) -> None:
    weights = two.stored("2") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert say("registry", "show", "guarded/2", *two.by_trust, *two.server).code == 11
    assert say("registry", "show", "guarded/1", "--key", two.who["stranger"].public_file, *two.server).code == 11


def test_history_tells_when_what_and_by_whom(two: World) -> None:
    assert rollback(two).code == 0
    say("registry", "revoke", "--yes", "guarded/2", *two.key("ben"), "--reason", "it \x1b[31mleaks", *two.server)
    said = say("registry", "history", "guarded", *two.by_trust, *two.server)
    assert said.code == 0, said.out
    assert [line.split()[3] for line in said.out.splitlines() if line[:5].strip().isdigit()] == [
        "proposal",
        "proposal",
        "decision",
        "promotion",
        "proposal",
        "proposal",
        "decision",
        "promotion",
        "rollback",
        "revocation",
    ]
    assert "by ana" in said.out
    assert "the second one rambles" in said.out
    assert "it \\x1b[31mleaks" in said.out
    assert "each signed by the server" in said.out
    record = json.loads(say("registry", "history", "guarded", *two.server, "--output", "json").stdout)
    assert record["checked"] is False
    assert record["events"][-1]["who"] == [f"key {two.who['ben'].public.keyid}"]


def whos(made: World, *more: object) -> list[tuple[str, list[str]]]:
    record = json.loads(say("registry", "history", "guarded", *more, *made.server, "--output", "json").stdout)
    return [(event["entry"]["kind"], event["who"]) for event in record["events"]]


def test_history_says_by_whom_tickets_adapters_decisions_and_promotions_are(two: World) -> None:
    once = [("proposal", ["trainer"]), ("proposal", ["trainer"]), ("decision", ["decider"]), ("promotion", ["decider"])]
    assert whos(two, *two.by_trust) == [*once, *once]
    assert whos(two)[0][1] == [f"key {two.who['trainer'].public.keyid}"]


def test_history_says_of_a_promotion_who_agreed_to_it(tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        made.admit()
        for who in ("ben", "ana"):
            words = ("approve", "guarded@production", *made.by_trust, *made.key(who), "--yes", "--reason", "so")
            assert say(*words, *made.server).code == 0
        assert whos(made, *made.by_trust)[-1] == ("promotion", ["ana", "ben"])


def test_history_names_nobody_by_a_signature_that_does_not_verify(two: World) -> None:
    stranger = sign(b"{}", two.who["stranger"].private)
    envelope = json.loads(stranger)
    envelope["signatures"][0]["keyid"] = two.who["ana"].public.keyid
    for data in (stranger, canonical(envelope)):
        (two.gate.root / "statements" / sha256(data)).write_bytes(data)
    what = {"model": "guarded", "alias": "production", "nonce": "n"}
    two.gate.note("proposal", **what, statement=sha256(stranger))
    assert whos(two, *two.by_trust)[-1] == ("proposal", [f"key {two.who['stranger'].public.keyid}"])
    two.gate.note("proposal", **what, statement=sha256(canonical(envelope)))
    said = say("registry", "history", "guarded", *two.by_trust, *two.server)
    assert said.code == 11
    assert "does not match the signed bytes" in said.out


def test_history_refuses_another_decision_than_the_one_that_was_admitted(two: World) -> None:
    kept = [two.stored(version) / "evidence" / "decision.dsse.json" for version in ("1", "2")]
    kept[1].chmod(0o600)
    kept[1].write_bytes(kept[0].read_bytes())
    said = say("registry", "history", "guarded", *two.by_trust, *two.server)
    assert said.code == 11
    assert "another decision than entry" in said.out
    kept[1].unlink()
    assert whos(two, *two.by_trust)[-2:] == [("decision", []), ("promotion", [])]


def test_history_of_a_model_that_nobody_knows_is_invalid_input(two: World) -> None:
    for more in (two.by_trust, ()):
        said = say("registry", "history", "nosuch", *more, *two.server)
        assert said.code == 2
        assert "nothing of a model 'nosuch'" in said.out
        assert "'guarded'" in said.out


def test_history_of_a_guarded_model_without_any_entry_is_empty(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        assert say("registry", "history", "guarded", *made.by_trust, *made.server).code == 0
        assert say("registry", "history", "guarded", *made.server).code == 2


def test_a_vote_is_fetched_as_it_was_signed_by_the_digest_that_history_shows(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.admit()
        words = ("approve", "guarded@production", *made.by_trust, *made.key("ana"), "--yes", "--reason", "read it")
        assert say(*words, *made.server).code == 0
        (vote,) = made.votes
        assert f"statement {sha256(vote)}" in say("registry", "history", "guarded", *made.server).out
        assert say("ledger", "statement", sha256(vote), *made.server).stdout.encode() == vote + b"\n"
        out = tmp_path / "vote.json"
        assert say("ledger", "statement", sha256(vote), *made.server, "--out", out).code == 0
        assert b"read it" in verify(out.read_bytes(), [made.who["ana"].public])
        assert say("ledger", "statement", "0" * 64, *made.server).code == 11
        assert say("ledger", "statement", "../etc", *made.server).code == 2
        (made.gate.root / "statements" / sha256(vote)).write_bytes(vote + b" ")
        assert say("ledger", "statement", sha256(vote), *made.server).code == 11


def test_a_reason_may_say_anything_and_history_goes_on(two: World) -> None:
    reason = 'see urn:mlflow-guardrail:approve in the wiki, "predicateType":"urn:mlflow-guardrail:approve:v1"'
    assert rollback(two, "ana", "guarded@production", "--to", "1", "--reason", reason).code == 0
    said = say("registry", "history", "guarded", *two.by_trust, *two.server)
    assert said.code == 0, said.out
    assert reason in said.out


def test_history_gives_the_reasons_of_who_approved_and_who_rejected(tmp_path: Path) -> None:
    reasons = {"approve": "looked at urn:mlflow-guardrail:rollback:v1", "reject": "answers rudely"}
    with world(tmp_path, approvals=2) as made:
        made.admit()
        for (word, reason), who in zip(reasons.items(), ("ana", "ben"), strict=True):
            words = (word, "guarded@production", *made.by_trust, *made.key(who), "--yes", "--reason", reason)
            assert say(*words, *made.server).code == 0
        said = say("registry", "history", "guarded", *made.by_trust, *made.server)
        assert said.code == 0, said.out
        assert [reason for reason in reasons.values() if reason not in said.out] == []


def test_history_is_checked_by_the_servers_key_and_a_touched_ledger_is_refused(two: World) -> None:
    server = ("--server-key", two.who["server"].public_file)
    assert say("registry", "history", "guarded", *server, *two.server).code == 0
    assert say("registry", "history", "guarded", "--server-key", two.who["ana"].public_file, *two.server).code == 11
    lines = two.gate.ledger.path.read_bytes().splitlines(keepends=True)
    two.gate.ledger.path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert say("registry", "history", "guarded", *server, *two.server).code == 11
    assert say("registry", "history", "guarded", *two.server, "--head", two.gate.ledger.head_path).code == 2


def test_rollback_moves_the_alias_by_an_order_for_this_situation(two: World) -> None:
    said = rollback(two)
    assert said.code == 0, said.out
    assert "from version 2 to version 1" in said.out
    assert "guarded@production points at version 1 now" in said.out
    verified = say("verify", "guarded@production", *two.by_trust, *two.server)
    assert verified.code == 0, verified.out
    assert "by the rollback in entry 9, ordered by ana: the second one rambles" in verified.out
    assert rollback(two).code == 2  # it stands there already


def test_rollback_by_somebody_who_may_not_is_refused(two: World) -> None:
    assert rollback(two, "trainer").code == 11
    assert two.gate.aliases == {"production": "2"}


def test_an_order_is_whole_or_somebody_elses(two: World, tmp_path: Path) -> None:
    assert rollback(two, "ana", "guarded@production", "--to", "1").code == 2
    assert rollback(two, "ana", "guarded@production", "--reason", "why not").code == 2
    assert rollback(two, "ana", "guarded/2", "--to", "1", "--reason", "why not").code == 2
    assert rollback(two, "ana", "guarded@production", "--to", "9", "--reason", "why not").code == 2
    order = tmp_path / "order.json"
    say(
        "registry", "revoke", "--yes", "guarded/2", *two.key("ana"), "--reason", "it leaks", *two.server, "--out", order
    )
    assert rollback(two, "ben", "--add-signature", order).code == 2  # it is a revocation
    assert rollback(two, "ben", "guarded@production", "--add-signature", order).code == 2


def test_several_persons_sign_one_order(tmp_path: Path) -> None:
    with world(tmp_path, approvals=2) as made:
        made.gate.promote(made.admit())
        made.gate.promote(made.admit(seed=1))
        order = tmp_path / "order.json"
        what = ("guarded@production", "--to", "1", "--reason", "back")
        assert rollback(made, "ana", *what).code == 11  # one is too few
        assert rollback(made, "ana", *what, "--out", order).code == 0
        assert made.gate.aliases == {"production": "2"}
        said = rollback(made, "ben", "--add-signature", order)
        assert said.code == 0, said.out
        assert "from version 2 to version 1" in said.out
        assert made.gate.aliases == {"production": "1"}


def test_an_adapter_is_revoked_by_its_digest_too(two: World) -> None:
    digest = next(iter(two.gate.candidates.values())).bundle.decision.manifest
    done = say(
        "registry", "revoke", "--yes", digest, *two.key("ana"), "--reason", "it leaks", *two.server, "--output", "json"
    )
    assert done.code == 0, done.out
    assert json.loads(done.stdout)["state"] == "recorded"
    assert say("verify", "guarded/1", *two.by_trust, *two.server).code == 11
    assert say("verify", "guarded/2", *two.by_trust, *two.server).code == 0


def test_a_version_whose_files_were_changed_is_revoked_by_digest_alone(two: World) -> None:
    weights = two.stored("2") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    said = say("registry", "revoke", "--yes", "guarded/2", *two.key("ana"), "--reason", "touched", *two.server)
    assert said.code == 11
    assert "revoke by digest" in said.out


def test_the_doctor_is_clean_or_tells_what_finishes_each_problem(two: World) -> None:
    said = say("registry", "doctor", *two.server)
    assert said.code == 0, said.out
    assert said.out.startswith("clean")
    two.gate.problems = (RegistryProblem(where="guarded/2", what="no files", finish="restore sealed/"),)
    broken = say("registry", "doctor", *two.server)
    assert broken.code == 11
    assert "finish: restore sealed/" in broken.out
    assert json.loads(say("registry", "doctor", *two.server, "--output", "json").stdout)["problems"]


def test_a_fetched_ledger_is_one_that_ledger_verify_reads(two: World, tmp_path: Path) -> None:
    copy, server = tmp_path / "copy", ("--key", two.who["server"].public_file)
    said = say("ledger", "fetch", "--out", copy, *two.server)
    assert said.code == 0, said.out
    assert copy.read_bytes() == two.gate.ledger.path.read_bytes()
    assert say("ledger", "verify", copy, *server, "--head", two.gate.ledger.head_path).code == 0
