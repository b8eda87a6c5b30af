"""A guarded promotion from the command line: a ticket, a key for each stage, a separate evaluator, a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guarded_place import LENIENT, ROLES, Place
from stage_chains import check_chain
from ticket_gate import gate
from tiny_models import write_policy, write_replay

from guardrail.data.dataset import write_samples
from guardrail.errors import EvidenceInvalid, EvidenceMissing, InvalidInput
from guardrail.evidence.bundle import stage_file
from guardrail.evidence.chain.bound_records import require_bound
from guardrail.evidence.chain.stage_chain import MADE, ChainTarget
from guardrail.evidence.keys import key_pairs
from guardrail.evidence.statements.tickets import seed_of
from guardrail.pipeline.gate import gate_attempt
from guardrail.pipeline.gate.run_ticket import held
from guardrail.pipeline.run import Run
from guardrail.records import AdapterRecord, DataReport, Decision, EvaluationReport
from guardrail.registry.verify.verify import verify
from guardrail.testbed import arms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A run that was validated and trained under a ticket, both signed."""
    folder = tmp_path_factory.mktemp("guarded")
    write_policy(folder, LENIENT)
    write_samples(folder / "train.jsonl", arms.rows("sentiment", poison=0.0, size=40))
    write_replay(folder / "replay.jsonl")
    for role in ROLES:
        key_pairs.init(folder / "keys", role)
    with gate() as opened:
        made = Place(folder, opened)
        made.validate("--gate", opened.uri)
        made.train()
        yield made


@pytest.fixture(scope="module")
def pulled(place: Place) -> Run:
    """The evaluator's run: pushed by one side, pulled, measured and signed by the other."""
    digest = place.run.require("adapter", AdapterRecord).manifest
    place.guardrail("candidate", "push", "--tracking-uri", place.uri)
    policy = str(place.folder / "policy.yaml")
    place.guardrail("candidate", "pull", digest, "--policy", policy, "--tracking-uri", place.uri, run="pulled")
    place.guardrail("evaluate", "--gate", place.gate.uri, run="pulled", sign="evaluate")
    return Run(place.folder / "pulled")


def test_validating_and_training_again_keeps_ticket_and_statements(place: Place) -> None:
    names = ("ticket.json", stage_file("data"), stage_file("train"))
    before = [(place.run.path / name).read_bytes() for name in names]
    place.validate("--gate", place.gate.uri)
    place.train()
    assert [(place.run.path / name).read_bytes() for name in names] == before
    assert len(place.gate.issued) == 1


def test_what_is_pushed_is_named_by_its_digest_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.guardrail("candidate", "push", "--tracking-uri", place.uri)
    assert capsys.readouterr().out.split() == [place.run.require("adapter", AdapterRecord).manifest]


def test_an_evaluation_under_a_ticket_has_its_seed_and_its_order(place: Place, pulled: Run) -> None:
    ticket = held(pulled)
    assert ticket == place.gate.issued[0]
    report = pulled.require("evaluation-report", EvaluationReport)
    assert report.seed == seed_of(ticket.nonce)
    rows = [json.loads(line) for line in (pulled.path / "responses.jsonl").read_text().splitlines()]
    texts = [row["request"]["text"] for row in rows if (row["suite"], row["who"]) == ("harmful", "candidate")]
    suite = [json.loads(line)["prompt"] for line in (place.folder / "harmful.jsonl").read_text().splitlines()]
    assert texts != suite
    assert sorted(texts) == sorted(suite)


def test_the_promoted_evidence_holds_a_chain_that_the_trust_file_accepts(
    place: Place, pulled: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place.guardrail("promote", "--key", place.key("decide"), "--tracking-uri", place.uri, run="pulled")
    assert "attempt 1 at this gate" in capsys.readouterr().out
    public = [key_pairs.load_public(place.folder / "keys" / "decide.pub")]
    found = verify("tiny@production", tracking_uri=place.uri, public_keys=public, now=datetime.now(UTC))
    assert found.version == "1"
    envelopes = [(pulled.path / stage_file(stage)).read_bytes() for stage in MADE]
    target = ChainTarget("tiny", "production", place.gate.issued[0].nonce)
    chain = check_chain(envelopes, place.trust(), target, now=datetime.now(UTC))
    decision = pulled.require("decision", Decision)
    require_bound(
        chain,
        decision,
        pulled.require("data-report", DataReport),
        pulled.require("adapter", AdapterRecord),
        pulled.require("evaluation-report", EvaluationReport),
    )
    assert decision.attempt == 1


def test_evaluating_again_without_a_ticket_is_another_measurement(place: Place, pulled: Run) -> None:
    """The nonce is among the inputs: what was measured before a ticket does not count under it, nor the other way."""
    from guardrail.pipeline.evaluation import evaluate_adapter

    under = pulled.require("evaluation-report", EvaluationReport)
    assert evaluate_adapter(pulled) == under
    plain = evaluate_adapter(Run(_copy(pulled, place.folder / "plain", "ticket.json")))
    assert plain.inputs != under.inputs
    assert plain.seed == pulled.require("adapter", AdapterRecord).seed
    assert [m.suite_digest for m in plain.measurements] == [m.suite_digest for m in under.measurements]


def test_a_base_that_is_loaded_otherwise_is_refused_before_anything_is_measured(place: Place, pulled: Run) -> None:
    from guardrail.pipeline.evaluation import evaluate_adapter

    run = Run(_copy(pulled, place.folder / "otherwise"))
    adapter = run.require("adapter", AdapterRecord)
    run.write("adapter", adapter.model_copy(update={"base": adapter.base.model_copy(update={"dtype": "bfloat16"})}))
    with pytest.raises(EvidenceInvalid, match="in bfloat16"):
        evaluate_adapter(run)


def test_promoting_a_run_that_was_not_evaluated_under_its_ticket_says_what_to_run(place: Place) -> None:
    with pytest.raises(EvidenceMissing, match="guardrail evaluate"):
        place.guardrail("evaluate", sign="evaluate")
    with pytest.raises(EvidenceMissing, match="guardrail evaluate"):
        place.guardrail("promote", "--key", place.key("decide"), "--tracking-uri", place.uri)


def test_a_key_without_a_ticket_is_refused(place: Place) -> None:
    data, policy = str(place.folder / "train.jsonl"), str(place.folder / "policy.yaml")
    with pytest.raises(InvalidInput, match="--gate URI"):
        place.guardrail("data", "validate", data, "--policy", policy, run="plain run", sign="data")


def test_one_command_signs_every_stage_with_its_key(place: Place) -> None:
    data, policy = str(place.folder / "train.jsonl"), str(place.folder / "policy.yaml")
    place.guardrail(
        "run",
        data,
        "--policy",
        policy,
        "--gate",
        place.gate.uri,
        "--key",
        place.key("decide"),
        "--epochs",
        "1",
        "--lora-rank",
        "4",
        "--replay",
        str(place.folder / "replay.jsonl"),
        "--tracking-uri",
        place.uri,
        run="all",
    )
    run = Run(place.folder / "all")
    assert all((run.path / stage_file(stage)).exists() for stage in MADE)
    assert run.require("decision", Decision).attempt == gate_attempt.require(run, place.gate.issued[-1]).number


def _copy(run: Run, target: Path, *without: str) -> Path:
    from shutil import copytree, ignore_patterns

    return Path(copytree(run.path, target, ignore=ignore_patterns(*without)))
