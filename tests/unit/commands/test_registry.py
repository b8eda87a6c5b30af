"""``guardrail registry`` and ``guardrail ledger fetch``: what a server holds, what happened, and orders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gate_cast import trust_file
from gate_world import Said, World, say, world

from guardrail.registry.gate.protocol import Problem

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
        ("guarded", ["1"], "it leaks"), ("", [], "never seen here"),
    ]  # fmt: skip


def test_list_says_that_a_number_holds_other_evidence_and_that_the_server_refuses_an_alias(two: World) -> None:
    two.gate.versions["2"] = two.gate.versions["1"] | {"version": "2"}
    assert states(two) == [("2", "moved")]


def test_list_says_that_a_version_has_expired_and_that_an_alias_is_empty(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        assert states(made) == []
        assert states(made, *made.by_trust) == [("", "empty")]
        made.admit(ago=timedelta(days=31))
        assert states(made) == [("1", "expired")]


def test_show_tells_an_auditor_everything(tmp_path: Path) -> None:
    with world(tmp_path, approvals=1) as made:
        made.made(1)
        made.admit()
        say("approve", "guarded@production", *made.by_trust, *made.key("ana"), "--yes", "--reason", "read it",
            *made.server)  # fmt: skip
        said = say("registry", "show", "guarded@production", *made.by_trust, *made.server)
        assert said.code == 0, said.out
        for told in ("verifies now", "1/4000 [", "evaluate by evaluator", "decided by  decider", "approved by ana at",
                     "read it", "attempt     2; 2 adapters"):  # fmt: skip
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
        "proposal", "proposal", "decision", "promotion", "proposal", "proposal", "decision", "promotion", "rollback",
        "revocation",
    ]  # fmt: skip
    assert "by ana" in said.out
    assert "the second one rambles" in said.out
    assert "it \\x1b[31mleaks" in said.out
    assert "each signed by the server" in said.out
    record = json.loads(say("registry", "history", "guarded", *two.server, "--output", "json").stdout)
    assert record["checked"] is False
    assert record["events"][-1]["who"] == [f"key {two.who['ben'].public.keyid}"]


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
    two.gate.problems = (Problem(where="guarded/2", what="no files", finish="restore sealed/"),)
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
