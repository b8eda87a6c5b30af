"""The data stage: load, check, flag, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guardrail.data.dataset import Dataset, load_dataset, samples_digest
from guardrail.data.detectors import Context
from guardrail.data.expectations import PREFIX
from guardrail.data.quarantine import CLEAN, write
from guardrail.data.validate import Validated, validate
from guardrail.errors import EvidenceInvalid, InvalidInput, PolicyDenied
from guardrail.evidence.digest import digest, file_sha256
from guardrail.pipeline import resolve
from guardrail.pipeline.run import Run, RunConfig
from guardrail.policy.bases import require_pinned_base
from guardrail.policy.load import LoadedPolicy
from guardrail.records import DataReport


def dataset(source: str, policy: LoadedPolicy) -> Dataset:
    """The data set at ``source``: a file, or ``testbed:TASK[:POISON[:triggered]]``."""
    if source.startswith("testbed:"):
        samples = tuple(resolve.testbed_rows(source.removeprefix("testbed:")))
        return Dataset(source=source, digest=samples_digest(samples), form="chat", samples=samples)
    return load_dataset(Path(source), policy.policy.data.columns)


def validate_data(run: Run, source: str) -> DataReport:
    """Run the data stage, or return its record if nothing changed.

    Raises:
        InvalidInput: the data cannot be read, nothing would be left of it, or the policy pins another base.
        PolicyDenied: most of it looks like poison.
    """
    policy, config = run.policy(), _config(run)
    data = dataset(source, policy)
    known = resolve.anchors(policy)
    base = resolve.base_model(config.base, config.revision)
    require_pinned_base(policy, base.ref)
    _require_asked(policy, base)
    inputs = digest({
        "stage": "data", "policy": policy.digest, "source": data.digest, "name": data.source, "base": base.ref.digest,
        "anchors": [list(known.harmful), list(known.benign)],
    })  # fmt: skip
    record = run.read("data-report", DataReport)
    if record is not None and record.inputs == inputs and _intact(run, record):
        return record
    result = validate(
        data, detectors=policy.policy.data.detectors, context=Context(known.harmful, known.benign, _embed(base)),
        quarantine=policy.policy.data.quarantine, max_characters=policy.policy.data.max_characters,
        policy_digest=policy.digest, base_digest=base.ref.digest, inputs=inputs,
    )  # fmt: skip
    files = write(run.path / "data", data, result)
    _require_mostly_clean(policy, result, files.quarantine)
    run.write("data-report", result.report)
    return result.report


def _require_asked(policy: LoadedPolicy, base: Any) -> None:
    """A system prompt that the base's template leaves out is refused now, and not after the training."""
    from guardrail.model.chat import prompt_text, user

    if policy.policy.generation.system:
        prompt_text(base.tokenizer, user("Hello.", policy.policy.generation.system))


def _require_mostly_clean(policy: LoadedPolicy, result: Validated, quarantine: Path) -> None:
    """Detectors miss some: of data that is mostly poison, what they leave is not to be trained on either."""
    suspects = {flag.sample_id for flag in result.flagged if not flag.detector.startswith(PREFIX)}
    limit, rows = policy.policy.data.max_flagged_share, result.report.rows
    if policy.policy.data.quarantine and len(suspects) > limit * rows:
        raise PolicyDenied(
            f"{len(suspects)} of {rows} rows of {result.report.source} look like poison; the rest is not trained on",
            expected=f"at most {limit:.0%} (data.max_flagged_share of policy {policy.policy.name!r})",
            next_step=f"look at {quarantine} and at where this data comes from",
        )


def clean_file(run: Run, record: DataReport) -> Path:
    """The rows that training may read, checked against the record.

    Raises:
        EvidenceInvalid: they are not what the data stage wrote.
    """
    if not _intact(run, record):
        raise EvidenceInvalid(f"{run.path / 'data' / CLEAN} is not what the data stage wrote",
                              next_step="run guardrail data validate again")  # fmt: skip
    return run.path / "data" / CLEAN


def _intact(run: Run, record: DataReport) -> bool:
    path = run.path / "data" / CLEAN
    return path.exists() and file_sha256(path) == record.training_digest


def _embed(base: Any) -> Callable[[Sequence[str]], Any]:
    from guardrail.model.hidden_states import embed

    return lambda texts: embed(base, texts)


def _config(run: Run) -> RunConfig:
    config = run.config()
    if config is None:
        raise InvalidInput(f"{run.path} is not a run", next_step="give --policy and --base")
    return config
