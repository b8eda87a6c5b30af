"""The server's log: a refusal on one line, whatever a client sends, and never so many that they fill a disk."""

from __future__ import annotations

import logging

import pytest
from flask import Flask

from guardrail.errors import EvidenceInvalid
from guardrail.gate.mlflow_errors import refusal
from guardrail.gate.refusal_log import BURST, LONGEST, PER_SECOND, LineBudget, log_closed, log_refusal, one_line

ERROR = EvidenceInvalid("the alias is not for clients to change")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "guardrail.server")
    return caplog


@pytest.mark.parametrize(
    "evil", ["\n", "\r\n", "\x1b[2J", "\x00", "\u2028", "\u202e", "\x85", "\x7f", "\ud800", "\U000e0001", "\u200b"]
)
def test_nothing_that_a_client_sends_ends_a_line_or_steers_a_terminal(log: pytest.LogCaptureFixture, evil: str) -> None:
    log_refusal(EvidenceInvalid(f"the name is a{evil}b"), LineBudget())
    (record,) = log.records
    assert evil not in record.getMessage()
    assert record.getMessage().isprintable()
    assert record.getMessage().encode("utf-8")


def test_who_what_and_why_stand_on_one_line(log: pytest.LogCaptureFixture) -> None:
    body = {"name": "guarded\nroot: all is well", "alias": "production", "version": "1", "secret": "hidden"}
    with Flask("test").test_request_context(
        "/api/2.0/mlflow/registered-models/alias",
        method="POST",
        json=body,
        auth=("ana", "word"),
        environ_base={"REMOTE_ADDR": "192.0.2.7"},
    ):
        log_refusal(ERROR, LineBudget())
    (record,) = log.records
    line = record.getMessage()
    for part in (
        "ana at 192.0.2.7 POST /api/2.0/mlflow/registered-models/alias",
        "alias='production'",
        "version='1'",
        "name='guarded\\nroot: all is well'",
        ERROR.got,
    ):
        assert part in line
    assert "hidden" not in line
    assert "word" not in line
    assert (record.levelname, line.count("\n")) == ("WARNING", 0)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"text"', b"\xff", b""])
def test_a_body_that_is_no_object_is_no_hindrance(log: pytest.LogCaptureFixture, body: bytes) -> None:
    with Flask("test").test_request_context("/x", method="POST", data=body, content_type="application/json"):
        log_refusal(ERROR, LineBudget())
    assert "nobody named at None POST /x" in log.text


def test_a_large_body_is_not_read_for_the_log(log: pytest.LogCaptureFixture) -> None:
    with Flask("test").test_request_context("/x", method="POST", json={"name": "m", "more": "x" * (1 << 17)}):
        log_refusal(ERROR, LineBudget())
    assert "name=" not in log.text


def test_every_refusal_that_becomes_an_answer_is_written(log: pytest.LogCaptureFixture) -> None:
    refusal(ERROR)
    assert ERROR.got in log.text


def test_a_flood_is_cut_and_counted(log: pytest.LogCaptureFixture) -> None:
    now = 0.0
    bucket = LineBudget(clock=lambda: now)
    for _ in range(BURST + 1000):
        log_refusal(ERROR, bucket)
    assert len(log.records) == BURST
    now = 1.0
    for _ in range(100):
        log_closed({"client": ("192.0.2.7", 1), "path": "/mlflow/assistant"}, bucket)
    assert len(log.records) == BURST + PER_SECOND + 1
    assert "1000 refusals before this one were not written" in log.text
    now = 1000.0
    log.clear()
    log_refusal(ERROR, bucket)
    assert "95 refusals before this one were not written" in log.text


def test_a_clock_that_stands_still_lets_no_more_than_a_burst_through() -> None:
    bucket = LineBudget(clock=lambda: 7.0)
    assert sum(bucket.take() is not None for _ in range(BURST * 3)) == BURST


def test_a_long_line_is_cut() -> None:
    assert len(one_line("x" * 10**6)) < LONGEST + 100
