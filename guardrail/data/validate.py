"""The data stage: expectations and detectors over a data set; what they flag; what training may read.

A sample counts once however many detectors flag it. With ``quarantine`` the flagged samples leave the training data;
without, they stay and are counted as left in, for the policy to judge. Reads no file and writes none (``quarantine``
does); loads no model (the context brings hidden states).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guardrail import plugins
from guardrail.data import control_tokens
from guardrail.data.dataset import Dataset, samples_digest
from guardrail.data.detectors import Context, Flag
from guardrail.data.expectations import PREFIX, ExpectationOutcome, check
from guardrail.errors import InternalError, InvalidInput
from guardrail.records import DataReport, DetectorResult, Frozen
from guardrail.samples import Sample

DETECTORS = "guardrail.data.detectors"


class Flagged(Frozen):
    """One flag on one sample; ``detector`` is a detector's name or ``expectation:<name>`` (score 1)."""

    sample_id: str
    line: int
    detector: str
    score: float
    reason: str


class Validated(Frozen):
    """The report, the samples that training may read, and every flag in the order of the data."""

    report: DataReport
    kept: tuple[Sample, ...]
    flagged: tuple[Flagged, ...]


def validate(
    dataset: Dataset,
    *,
    detectors: Sequence[str],
    context: Context,
    carried: control_tokens.Carried,
    quarantine: bool,
    max_characters: int,
    policy_digest: str,
    base_digest: str,
    inputs: str,
    plan: str | None = None,
) -> Validated:
    """Check ``dataset`` and split it into what is kept and what is flagged.

    Args:
        dataset: what :func:`guardrail.data.dataset.load_dataset` gave.
        detectors: names of detectors, in the order of the report.
        context: anchors and hidden states for the detectors.
        carried: which of the base's control tokens a text spells.
        quarantine: whether flagged samples leave the training data.
        max_characters: the longest that a sample may be.
        policy_digest: SHA-256 of the policy.
        plan: SHA-256 of the sections of it that this stage reads.
        base_digest: SHA-256 of the base model that the context's hidden states come from.
        inputs: SHA-256 of everything that this stage reads.

    Raises:
        InvalidInput: unknown detector, too few anchors, or nothing would be left to train on.
        InternalError: a detector flags a sample that is not there.
    """
    expected = _both(
        check(dataset.samples, max_characters=max_characters), control_tokens.look(dataset.samples, carried)
    )
    flags = {name: _detect(name, dataset.samples, context) for name in dict.fromkeys(detectors)}
    flagged = _in_order(dataset.samples, expected, flags)
    suspects = {flag.sample_id for flag in flagged}
    kept = tuple(s for s in dataset.samples if not (quarantine and s.id in suspects))
    if not kept:
        raise _nothing_left(dataset, flagged)
    results = tuple(_result(name, found, context) for name, found in flags.items())
    quarantined = len(dataset.samples) - len(kept)
    report = DataReport(
        inputs=inputs,
        policy=policy_digest,
        plan=plan,
        base=base_digest,
        source=dataset.source,
        source_digest=dataset.digest,
        form=dataset.form,
        rows=len(dataset.samples),
        flagged=len(suspects),
        quarantined=quarantined,
        flagged_left_in=len(suspects) - quarantined,
        training_rows=len(kept),
        training_digest=samples_digest(kept),
        expectations=expected.results,
        detectors=results,
    )
    return Validated(report=report, kept=kept, flagged=flagged)


def _both(first: ExpectationOutcome, second: ExpectationOutcome) -> ExpectationOutcome:
    return ExpectationOutcome(results=first.results + second.results, unexpected=first.unexpected + second.unexpected)


def _detect(name: str, samples: Sequence[Sample], context: Context) -> dict[str, Flag]:
    """Sample id -> flag.

    Raises:
        InternalError: the detector breaks its contract.
    """
    flags = list(plugins.load(DETECTORS, name).detect(samples, context))
    found = {flag.sample_id: flag for flag in flags}
    if len(found) != len(flags) or not found.keys() <= {sample.id for sample in samples}:
        raise InternalError(f"the detector {name} flags samples twice or that are not there")
    return found


def _result(name: str, found: dict[str, Flag], context: Context) -> DetectorResult:
    module = plugins.load(DETECTORS, name)
    return DetectorResult(name=name, flagged=len(found), threshold=module.threshold(context), source=module.SOURCE)


def _in_order(
    samples: Sequence[Sample], expected: ExpectationOutcome, flags: dict[str, dict[str, Flag]]
) -> tuple[Flagged, ...]:
    failed: dict[str, list[tuple[str, Flag]]] = {}
    for one in expected.unexpected:
        flag = Flag(sample_id=one.sample_id, score=1.0, reason=one.reason)
        failed.setdefault(one.sample_id, []).append((PREFIX + one.expectation, flag))
    for name, found in flags.items():
        for id_, flag in found.items():
            failed.setdefault(id_, []).append((name, flag))
    return tuple(flagged for sample in samples for flagged in _flagged(sample, failed.get(sample.id, [])))


def _flagged(sample: Sample, flags: list[tuple[str, Flag]]) -> Iterator[Flagged]:
    for name, flag in flags:
        yield Flagged(sample_id=sample.id, line=sample.line, detector=name, score=flag.score, reason=flag.reason)


def _nothing_left(dataset: Dataset, flagged: Sequence[Flagged]) -> InvalidInput:
    by = {name: len({f.sample_id for f in flagged if f.detector == name}) for name in {f.detector for f in flagged}}
    counts = ", ".join(f"{name} {count}" for name, count in sorted(by.items()))
    return InvalidInput(
        f"all {len(dataset.samples)} rows of {dataset.source} would be quarantined ({counts})",
        expected="at least one row to train on",
        next_step="look at where this data comes from; if the flags are wrong, check the anchors and max_characters",
    )
