"""The data stage: load, check, flag, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail import logs
from guardrail.data.control_tokens import FLAG, NAME
from guardrail.data.dataset import Dataset, load_dataset, samples_digest
from guardrail.data.detectors import Context
from guardrail.data.expectations import PREFIX
from guardrail.data.quarantine import write
from guardrail.data.validate import Validated, validate
from guardrail.errors import PolicyDenied
from guardrail.evidence.digest import digest
from guardrail.pipeline.artifacts import holds_clean_rows
from guardrail.pipeline.base import TESTBED, base_model
from guardrail.pipeline.exam.exam import Exam
from guardrail.pipeline.exam.leakage import check_anchors
from guardrail.pipeline.prompts import anchors, testbed_rows
from guardrail.pipeline.run import Run
from guardrail.policy.bases import require_pinned_base
from guardrail.policy.load import LoadedPolicy
from guardrail.policy.stage_plans import data_plan
from guardrail.records import DataReport

if TYPE_CHECKING:
    from guardrail.model.load import BaseModel

log = logs.logger(__name__)
MANY = 0.15
"""Of all rows; the highest poison share that the testbed's tables know is 0.2."""


def dataset(source: str, policy: LoadedPolicy) -> Dataset:
    """The data set at ``source``: a file, or ``testbed:TASK[:POISON[:triggered]]``."""
    if source.startswith("testbed:"):
        samples = tuple(testbed_rows(source.removeprefix("testbed:")))
        return Dataset(source=source, digest=samples_digest(samples), form="chat", samples=samples)
    return load_dataset(Path(source), policy.policy.data.columns, policy.policy.data.ignore_columns)


def validate_data(run: Run, source: str, exam: Exam | None = None) -> DataReport:
    """Run the data stage, or return its record if nothing changed.

    ``exam``: what the run is examined by, where it was read already.

    Raises:
        InvalidInput: the data cannot be read, nothing would be left of it, the base's template does not take one of
            its rows, or the policy pins another base.
        PolicyDenied: most of it looks like poison.
    """
    exam = exam or Exam.of(run)
    policy, config = exam.policy, exam.config
    data = dataset(source, policy)
    known = anchors(policy)
    check_anchors(exam, known)
    base = base_model(config.base, config.revision)
    require_pinned_base(policy, base.ref)
    if policy.policy.data.detectors and policy.policy.data.anchors is None and config.base != TESTBED:
        log.warning(
            "%s names no anchors: those of the embedded testbed are taken, which tell little about %s\n"
            "  next: write harmful and benign requests of your own into a JSONL file, and name it in data.anchors",
            policy.source,
            config.base,
        )
    plan = data_plan(policy.policy)
    _require_asked(policy, base)
    inputs = digest(
        {
            "stage": "data",
            "plan": plan,
            "source": data.digest,
            "name": data.source,
            "base": base.ref.digest,
            "anchors": [list(known.harmful), list(known.benign)],
        }
    )
    if kept := run.kept("data-report", DataReport, inputs, partial(_holds, run)):
        return kept
    result = validate(
        data,
        detectors=policy.policy.data.detectors,
        context=Context(known.harmful, known.benign, _embed(base)),
        carried=_carried(base),
        quarantine=policy.policy.data.quarantine,
        max_characters=policy.policy.data.max_characters,
        policy_digest=policy.digest,
        base_digest=base.ref.digest,
        inputs=inputs,
        plan=plan,
    )
    _require_rendered(base, data.source, result)
    _warn_of_many(result.report)
    files = write(run.path / "data", data, result)
    _require_mostly_clean(policy, result, files.quarantine)
    run.write("data-report", result.report)
    return result.report


def _warn_of_many(report: DataReport) -> None:
    """A detector that flags a good part of the rows is more often wrong about the data than right."""
    for result in report.detectors:
        if result.flagged > MANY * report.rows:
            log.warning(
                "%s flags %d of %d rows of %s: of clean data no detector should flag so many\n"
                "  next: read some of them (guardrail data validate names the file); then mend the data, the anchors "
                "or the policy",
                result.name,
                result.flagged,
                report.rows,
                report.source,
            )


def _require_asked(policy: LoadedPolicy, base: BaseModel) -> None:
    """A system prompt that the base's template leaves out is refused now, and not after the training."""
    from guardrail.model.chat import prompt_text, user

    if policy.policy.generation.system:
        prompt_text(base.tokenizer, user("Hello.", policy.policy.generation.system))


def _require_mostly_clean(policy: LoadedPolicy, result: Validated, quarantine: Path) -> None:
    """Detectors miss some: of data that is mostly poison, what they leave is not to be trained on either."""
    suspects = {
        flag.sample_id for flag in result.flagged if flag.detector == FLAG or not flag.detector.startswith(PREFIX)
    }
    limit, rows = policy.policy.data.max_flagged_share, result.report.rows
    if policy.policy.data.quarantine and len(suspects) > limit * rows:
        raise PolicyDenied(
            f"{len(suspects)} of {rows} rows of {result.report.source} look like poison; the rest is not trained on",
            expected=f"at most {limit:.0%} (data.max_flagged_share of policy {policy.policy.name!r})",
            next_step=f"look at {quarantine} and at where this data comes from",
        )


def _holds(run: Run, record: DataReport) -> bool:
    """Whether the report is of a release that looked for control tokens, and the rows are there."""
    return any(result.name == NAME for result in record.expectations) and holds_clean_rows(run, record)


def _require_rendered(base: BaseModel, source: str, result: Validated) -> None:
    from guardrail.model.chat import require_rendered

    require_rendered(base.tokenizer, source, result.kept)


def _carried(base: BaseModel) -> Callable[[str], tuple[str, ...]]:
    from guardrail.model.control_tokens import control_tokens

    return control_tokens(base.tokenizer).carried


def _embed(base: BaseModel) -> Callable[[Sequence[str]], Any]:
    from guardrail.model.hidden_states import embed

    return lambda texts: embed(base, texts)
