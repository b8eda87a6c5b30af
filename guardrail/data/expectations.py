"""The Great Expectations suite over a data set: schema, emptiness, duplicates, length. Its only importer.

The suite runs in an ephemeral context: nothing is written, no progress bar is drawn, no usage statistics are sent.
An expectation that fails is not an exception: it is recorded, and its rows are flagged with a reason. Importing
Great Expectations takes some ten seconds, which is why it happens inside the function.

Not covered: what the texts mean (detectors), near-duplicates (only exact repetitions of whole conversations count),
and languages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from guardrail.errors import InternalError
from guardrail.evidence.digest import digest
from guardrail.records import ExpectationResult, Frozen
from guardrail.samples import Sample

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("id", "request", "response", "conversation", "characters")
PREFIX = "expectation:"


class Unexpected(Frozen):
    """A sample that an expectation did not hold for."""

    sample_id: str
    expectation: str
    reason: str


class ExpectationOutcome(Frozen):
    """The outcome: one result for each expectation and the samples that were not as expected."""

    results: tuple[ExpectationResult, ...]
    unexpected: tuple[Unexpected, ...]


def check(samples: Sequence[Sample], *, max_characters: int) -> ExpectationOutcome:
    """Run the suite.

    Args:
        samples: the data set, ids distinct.
        max_characters: the longest a sample may be, all of its turns together.

    Raises:
        InternalError: Great Expectations could not compute an expectation (never taken as passed).
    """
    results, unexpected = [], []
    for name, outcome in _run(_frame(samples), max_characters).items():
        _check_computed(name, outcome)
        ids = _ids(name, outcome, samples)
        passed = bool(outcome.success)
        results.append(ExpectationResult(name=name, passed=passed, checked=len(samples), unexpected=len(ids)))
        reason = _REASONS[name].format(limit=f"{max_characters:,}")
        unexpected += [Unexpected(sample_id=id_, expectation=name, reason=reason) for id_ in ids]
    return ExpectationOutcome(results=tuple(results), unexpected=tuple(unexpected))


_REASONS = MappingProxyType(
    {
        "schema": "a column is missing",
        "request_not_empty": "the request is empty",
        "response_not_empty": "the response is empty",
        "no_duplicates": "repeats the whole conversation of an earlier row",
        "length": "longer than {limit} characters",
    }
)


def _frame(samples: Sequence[Sample]) -> DataFrame:
    import pandas

    rows = [(s.id, s.request, s.response, _conversation(s), sum(len(m.content) for m in s.messages)) for s in samples]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def _conversation(sample: Sample) -> str:
    """Equal where every turn is: another system prompt, or history, makes another row."""
    return digest([turn.model_dump() for turn in sample.messages])


def _expectations(max_characters: int) -> dict[str, Any]:
    import great_expectations.expectations as gxe

    return {
        "schema": gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(COLUMNS)),
        "request_not_empty": gxe.ExpectColumnValuesToMatchRegex(column="request", regex=r"\S"),
        "response_not_empty": gxe.ExpectColumnValuesToMatchRegex(column="response", regex=r"\S"),
        "no_duplicates": gxe.ExpectColumnValuesToBeUnique(column="conversation"),
        "length": gxe.ExpectColumnValuesToBeBetween(column="characters", max_value=max_characters),
    }


def _run(frame: DataFrame, max_characters: int) -> dict[str, Any]:
    """Expectation name -> its Great Expectations result, in the order of the suite."""
    import great_expectations as gx

    context = _quiet_context(gx.get_context)
    asset = context.data_sources.add_pandas("samples").add_dataframe_asset("samples")
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name="training-data"))
    for name, expectation in _expectations(max_characters).items():
        expectation.meta = {"name": name}
        suite.add_expectation(expectation)
    definition = gx.ValidationDefinition(name="training-data", data=batch, suite=suite)
    context.validation_definitions.add(definition)
    result = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
    )
    found = {one.expectation_config.meta["name"]: one for one in result.results}
    return {name: found[name] for name in _REASONS}


def _quiet_context(get_context: Callable[..., Any]) -> Any:
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # it sets INFO itself
    context = get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return context


def _check_computed(name: str, outcome: Any) -> None:
    """A metric that raised comes back as a failure without rows; that is no measurement."""
    if not outcome.success and name != "schema" and not outcome.result.get("unexpected_index_list"):
        raise InternalError(f"Great Expectations could not compute {name}: {outcome.exception_info}")


def _ids(name: str, outcome: Any, samples: Sequence[Sample]) -> list[str]:
    """The unexpected samples' ids in order; of equal rows the first is as expected."""
    indices = outcome.result.get("unexpected_index_list") or []
    found = {str(entry["id"]) for entry in indices}
    seen: set[str] = set()
    ids = []
    for sample in samples:
        if sample.id not in found:
            continue
        key = _conversation(sample)
        if name != "no_duplicates" or key in seen:
            ids.append(sample.id)
        seen.add(key)
    return ids
