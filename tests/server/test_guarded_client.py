"""The client of a guarded promotion against a real MLflow server, whose gate takes denials in (``ticket_gate``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import Server
from signed_runs import signed, started
from ticket_gate import Gate, gate
from trust_files import NOW, key

from guardrail.errors import EvidenceMissing
from guardrail.evidence.bundle import ENVELOPE, stage_file
from guardrail.evidence.chain.stage_chain import MADE
from guardrail.pipeline.gate.handover import pull_candidate, push_candidate
from guardrail.pipeline.promotion import promote_run
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, Decision, RegistryRecord, Verdict
from guardrail.registry.mlflow.mlflow_client import client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(server: Server) -> Iterator[Gate]:
    with gate(NOW, server.uri) as found:
        yield found


def promote(run: Run, uri: str) -> tuple[Decision, RegistryRecord]:
    return promote_run(run.path, tracking_uri=uri, key=key("server"), now=NOW)


def test_a_denial_with_a_ticket_is_recorded_and_its_envelope_handed_to_the_gate(opened: Gate, tmp_path: Path) -> None:
    run = signed(started(tmp_path / "run", attempt=2), safe=False)
    before = len(opened.statements)
    decision, record = promote(run, opened.uri)
    assert (decision.verdict, record.version, record.attempt) == (Verdict.FAILED, None, 2)
    assert opened.statements[before:] == [(run.path / ENVELOPE).read_bytes()]
    with client(opened.uri, write=False) as mlflow:
        names = {item.path for item in mlflow.list_artifacts(record.run_id, "evidence")}
    assert {f"evidence/{stage_file(stage)}" for stage in MADE} <= names


def test_a_denial_without_a_ticket_is_handed_to_nobody(opened: Gate, tmp_path: Path) -> None:
    before = len(opened.statements)
    decision, _ = promote(signed(started(tmp_path / "run", attempt=0), safe=False), opened.uri)
    assert decision.verdict is Verdict.FAILED
    assert len(opened.statements) == before


def test_what_passes_is_proposed_with_its_statements_and_handed_in_as_nothing_else(
    opened: Gate, tmp_path: Path
) -> None:
    before = len(opened.statements)
    decision, record = promote(signed(started(tmp_path / "run")), opened.uri)
    assert (decision.verdict, record.version, record.attempt) == (Verdict.PASSED, "1", 1)
    assert len(opened.statements) == before


@pytest.mark.parametrize("kind", ["server", "store"])
def test_a_denial_that_no_gate_is_told_of_is_recorded_and_the_command_that_tells_it_is_said(
    opened: Gate, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    run = signed(started(tmp_path / "run", attempt=3 if kind == "server" else 4), safe=False)
    before = len(opened.statements)
    decision, record = promote(run, server.uri if kind == "server" else f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (decision.verdict, record.verdict, record.version) == (Verdict.FAILED, Verdict.FAILED, None)
    assert run.require("registry-record", RegistryRecord) == record
    assert "recorded in MLflow, but the gate that gave the ticket was not told" in caplog.text
    assert f"guardrail promote --run {run.path} --key KEY --tracking-uri GATE_URI" in caplog.text
    promote(run, opened.uri)
    assert opened.statements[before:] == [(run.path / ENVELOPE).read_bytes()]


def test_nothing_is_sent_before_every_stage_has_signed(opened: Gate, tmp_path: Path) -> None:
    run = signed(started(tmp_path / "run", attempt=5))
    (run.path / stage_file("evaluate")).unlink()
    with pytest.raises(EvidenceMissing, match="guardrail evaluate"):
        promote(run, opened.uri)
    assert not (run.path / "registry-record.json").exists()


def test_a_candidate_goes_through_a_server_as_through_a_store(server: Server, tmp_path: Path) -> None:
    run = signed(started(tmp_path / "run"), "data", "train")
    name = push_candidate(run.path, tracking_uri=server.uri, now=NOW).digest
    pulled = pull_candidate(name, tmp_path / "pulled", tracking_uri=server.uri, now=NOW)
    assert pulled.candidate.adapter.manifest == name
    assert Run(tmp_path / "pulled").require("adapter", AdapterRecord) == pulled.candidate.adapter
