"""Suites and tasks are read once, whoever asks for them, and are the same for whoever checks and whoever measures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import POLICY, write_policy, write_replay

from guardrail.pipeline.exam import exam as exams
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.gate_plans import plan_all
from guardrail.pipeline.exam.leakage import check_replay, check_rows
from guardrail.pipeline.exam.validation import plan_validation
from guardrail.pipeline.run import RunConfig
from guardrail.policy.load import load_policy
from guardrail.testbed import arms

CONFIG = RunConfig(policy_source="policy.yaml", base="testbed", tasks=("sentiment",))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Any, ...]]:
    """What was read, and how often."""
    found: Counter[tuple[Any, ...]] = Counter()

    def counting(kind: str, load: Any) -> Any:
        def counted(policy: Any, name: str, split: str | None = None, *more: Any) -> Any:
            found[kind, name, split] += 1
            return load(policy, name, split, *more)

        return counted

    for kind in ("load_suite", "load_task"):
        monkeypatch.setattr(exams, kind, counting(kind, getattr(exams, kind)))
    return found


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    return Exam(load_policy(write_policy(tmp_path, POLICY)), CONFIG)


def test_each_is_read_once_whoever_asks(exam: Exam, read: Counter[tuple[Any, ...]]) -> None:
    for _ in range(3):
        check_replay(exam, ["A prompt of ours."])
        check_rows(exam, arms.rows("sentiment", size=20))
        plan_validation(exam)
        list(plan_all(exam))
    assert set(read.values()) == {1}
    assert {name for _, name, split in read if split is None} == {*exam.policy.policy.suites, *exam.task_names}


def test_what_is_leak_checked_is_what_is_measured(exam: Exam) -> None:
    harmful = exam.suite("harmful")
    (plan,) = (plan for plan in plan_all(exam) if plan.suite == "harmful" and plan.attack == "direct")
    assert [asked.behaviour for asked in plan.asked] == [one.id for one in harmful.behaviours for _ in one.variants]
    assert exam.suite("harmful") is harmful


def test_the_first_of_two_files_for_a_task_counts(exam: Exam) -> None:
    config = CONFIG.model_copy(update={"tasks": ("sums=gsm8k:a.jsonl", "sums=gsm8k:b.jsonl", "code")})
    assert replace(exam, config=config).task_names == ("sums", "code")


@pytest.mark.slow
def test_a_whole_run_reads_each_once(tmp_path: Path, read: Counter[tuple[Any, ...]]) -> None:
    from guardrail.data.dataset import write_samples
    from guardrail.pipeline.data import validate_data
    from guardrail.pipeline.evaluation import evaluate_adapter
    from guardrail.pipeline.preflight import check_request
    from guardrail.pipeline.request import TrainRequest
    from guardrail.pipeline.run import Run
    from guardrail.pipeline.training import train_adapter
    from guardrail.train.stage import Lora
    from guardrail.train.trainer import Settings

    run, policy = Run(tmp_path / "run"), load_policy(write_policy(tmp_path, POLICY))
    write_samples(tmp_path / "train.jsonl", arms.rows("sentiment", size=32))
    write_replay(tmp_path / "replay.jsonl")
    settings = Settings(epochs=1.0, batch_size=16)
    request = TrainRequest(
        "der", settings=settings, lora=Lora(rank=4, alpha=8.0), replay=str(tmp_path / "replay.jsonl")
    )
    exam = Exam(policy, CONFIG)
    check_request(exam, request)
    run.start(policy, CONFIG)
    validate_data(run, str(tmp_path / "train.jsonl"), exam)
    train_adapter(run, request, exam=exam)
    evaluate_adapter(run, exam=exam)
    assert set(read.values()) == {1}
